import { Redis } from 'ioredis'
import type { CircuitBreaker } from '../circuit-breaker.ts'
import { CircuitOpenError } from '../errors.ts'
import { outsideEveryScope } from '../scope/current.ts'
import type { Logger } from '../scope/logger.ts'
import { becomeReady, type Client, clientOf, neverResends } from './client.ts'
import { connectionFailure, isConnectionFailure, isWrongDatabase } from './connection-failure.ts'
import { placeOf } from './exclusive-client.ts'
import type { RedisConfig } from './options.ts'
import { type ReplyGuard, ReplyTimeouts } from './reply-timeouts.ts'
import type { Script, ScriptClient } from './script.ts'
import { WritePacks } from './write-packs.ts'

type Methods = Readonly<Record<string, (...args: unknown[]) => unknown>>

// Frameworks give up on a plugin that is not ready after ten seconds, and then can't say why it was not.
const START_TIMEOUT_MS = 8_000

/**
 * The one connection that all scopes share, or in a cluster one to each master. What is sent while it is not there waits
 * for it to come back, at most `commandTimeoutMs`, and is then not sent at all: nothing happens after its caller was told
 * that it failed. What was under way when it was lost rejects, and is never sent again.
 */
export class SharedClient implements ReplyGuard {
  client: Client
  readonly isCluster: boolean
  readonly timeouts: ReplyTimeouts
  readonly #shorter = new Map<number, ReplyTimeouts>()
  readonly #resource: string
  readonly #config: RedisConfig
  readonly #logger: () => Logger
  readonly #circuit: CircuitBreaker
  readonly #owned: boolean
  readonly #corks: boolean
  readonly #packs = new WritePacks()
  #lastError: unknown
  #wrongDatabase: unknown
  #reported = false
  #becomingReady: Promise<void> | undefined

  #isConnected = false

  constructor(resource: string, config: RedisConfig, circuit: CircuitBreaker, logger: () => Logger) {
    this.#circuit = circuit
    this.#resource = resource
    this.#config = config
    this.#logger = logger
    this.timeouts = new ReplyTimeouts(config.commandTimeoutMs)
    this.#owned = config.source.tag !== 'client'
    this.client = this.#fresh()
    this.isCluster = this.client.isCluster
    this.#corks = config.autoPipelining && !this.isCluster
  }

  get isReady(): boolean {
    const { client } = this
    // Of its end ioredis tells later than the socket knows; what is sent in between it would keep for the next one.
    return client.status === 'ready' && (this.isCluster || (client as Redis).stream.writable)
  }

  get lastError(): unknown {
    return this.#lastError
  }

  get place(): string {
    if (this.client instanceof Redis || !this.isCluster) return placeOf((this.client as Redis).options)
    const nodes = this.client.nodes('master').map(({ options }) => placeOf(options))
    return nodes.length === 0 ? 'a cluster' : `the cluster of ${nodes.join(', ')}`
  }

  #fresh(): Client {
    const client = outsideEveryScope(() => clientOf(this.#config))
    for (const [name, definition] of Object.entries(this.#config.scripts)) {
      client.defineCommand(name, definition as { lua: string })
    }
    return client
  }

  /** Connects, so that what is wrong with the server or the options is known at once. */
  async start(): Promise<void> {
    // One that was closed while it tried to connect again never does.
    if (this.#owned && this.client.status !== 'wait') this.client = this.#fresh()
    const { client } = this
    client.on('error', this.#noteError)
    client.on('ready', this.#noteReady)
    client.on('close', this.#noteClose)
    if (neverResends(client)) client.on('close', this.#flushOnClose)
    if (this.#owned) client.off('error', ignore)
    const timeoutMs = Math.min(this.#config.connectTimeoutMs, START_TIMEOUT_MS)
    try {
      await this.#inTime(this.#whenReady(), timeoutMs)
      // ioredis goes on with database 0 when it can't select the one that was asked for.
      if (this.#wrongDatabase !== undefined) throw this.#wrongDatabase
      if (!this.isCluster) await this.#inTime((client as Redis).ping(), timeoutMs)
    } catch (error) {
      this.stop()
      throw this.failure(error)
    }
  }

  stop(): void {
    const { client } = this
    client.off('error', this.#noteError)
    client.off('ready', this.#noteReady)
    client.off('close', this.#noteClose)
    client.off('close', this.#flushOnClose)
    if (!this.#owned) return
    client.on('error', ignore) // a late one has nobody to tell
    if (client.status !== 'end') client.disconnect()
    if (!this.isCluster) (client as Redis).stream?.destroy()
  }

  /** Waits for what was sent to be answered. */
  async drain(timeoutMs: number): Promise<void> {
    if (!this.#owned || !this.isReady || this.isCluster) return
    const client = this.client as Redis
    if (client.commandQueue.length > 0) await this.#inTime(client.ping(), timeoutMs / 2).catch(() => {})
  }

  /** Sends a command by the name of its method. */
  send(method: string, args: readonly unknown[]): Promise<unknown> {
    if (!this.isReady) return this.sending((client) => call(client, method, args))
    this.#hold()
    return this.timeouts.bound(call(this.client, method, args), this)
  }

  /** Sends what `send` sends, once the connection is there, and bounds how long that takes altogether. */
  sending<Result>(send: (client: Client) => PromiseLike<Result>, timeouts = this.timeouts): Promise<Result> {
    const begin = () => {
      this.#hold()
      return send(this.client)
    }
    if (this.isReady) return timeouts.bound(begin(), this)
    // Between the event and us it may have gone again.
    const begunWhenReady = () => (this.isReady ? begin() : Promise.reject(new Error('Connection is closed.')))
    return timeouts.boundAfter(this.#whenReady(), begunWhenReady, this)
  }

  late(): unknown {
    return this.failure(new Error('Command timed out'))
  }

  failed(error: unknown): unknown {
    return this.failure(error)
  }

  /** Runs a script of ours. */
  run(
    script: Script,
    keys: readonly string[],
    args: readonly (string | number)[],
    timeoutMs?: number,
  ): Promise<unknown> {
    const timeouts = this.#timeoutsOf(timeoutMs)
    if (!this.isReady) {
      return this.sending((client) => script.run(client as unknown as ScriptClient, keys, args), timeouts)
    }
    this.#hold()
    return timeouts.bound(script.run(this.client as unknown as ScriptClient, keys, args), this)
  }

  /** For those who wait less long than commands may take: there are as many as there are values of the option. */
  #timeoutsOf(timeoutMs: number | undefined): ReplyTimeouts {
    if (timeoutMs === undefined || timeoutMs >= this.timeouts.timeoutMs) return this.timeouts
    let timeouts = this.#shorter.get(timeoutMs)
    if (timeouts === undefined) this.#shorter.set(timeoutMs, (timeouts = new ReplyTimeouts(timeoutMs)))
    return timeouts
  }

  /** What a failed command is reported as: what Redis itself said comes as it is. */
  failure(error: unknown, outcome?: 'unknown'): unknown {
    if (error instanceof CircuitOpenError || !isConnectionFailure(error)) return error
    return connectionFailure(this.#resource, this.place, error, outcome)
  }

  #hold(): void {
    if (this.#corks) this.#packs.next((this.client as Redis).stream)
  }

  /** Resolves when the connection is there; rejects when the attempt that is under way, or the next one, fails. */
  #whenReady(): Promise<void> {
    const { status } = this.client
    // A client that has given up is asked to connect by who needs it, or by nobody.
    const { refusal } = this.#circuit
    if (refusal !== undefined && status !== 'wait' && status !== 'end') return Promise.reject(refusal)
    this.#becomingReady ??= outsideEveryScope(() => this.#becomeReady()).finally(() => {
      this.#becomingReady = undefined
    })
    return this.#becomingReady
  }

  #becomeReady(): Promise<void> {
    if (this.isReady) return Promise.resolve()
    return becomeReady(this.client, this.#owned, () => this.#lastError)
  }

  // Of a connection that is made anew: ioredis neither sends again what was under way nor rejects it.
  readonly #flushOnClose = (): void => {
    const flushing = this.client as unknown as { flushQueue(error: Error, options?: object): void }
    flushing.flushQueue(new Error('Connection is closed.'), { offlineQueue: false })
  }

  readonly #noteError = (error: unknown): void => {
    this.#lastError = error
    if (isWrongDatabase(error)) this.#wrongDatabase = error
    if (this.#reported) return
    this.#reported = true
    this.#logger().warn({ err: connectionFailure(this.#resource, this.place, error) }, 'the connection to Redis failed')
  }

  // An attempt that failed; and the end of a connection, which is none yet.
  readonly #noteClose = (): void => {
    if (!this.#isConnected) {
      const cause = this.#lastError ?? new Error('Connection is closed.')
      this.#circuit.noteFailure(connectionFailure(this.#resource, this.place, cause))
    }
    this.#isConnected = false
  }

  readonly #noteReady = (): void => {
    this.#lastError = undefined
    this.#isConnected = true
    this.#circuit.noteSuccess()
    if (!this.#reported) return
    this.#reported = false
    this.#logger().info({ resource: this.#resource }, 'the connection to Redis is back')
  }

  async #inTime<Result>(work: Promise<Result>, timeoutMs: number): Promise<Result> {
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<never>((_, reject) => {
      timer = outsideEveryScope(() => setTimeout(() => reject(new Error('Command timed out')), timeoutMs))
    })
    try {
      return await Promise.race([work, late])
    } finally {
      clearTimeout(timer)
    }
  }
}

function call(client: Client, method: string, args: readonly unknown[]): Promise<unknown> {
  return (client as unknown as Methods)[method]?.(...args) as Promise<unknown>
}

function ignore(): void {}
