import { Cluster, Redis } from 'ioredis'

import { outsideEveryScope } from '../scope/current.ts'
import type { Logger } from '../scope/logger.ts'
import { connectionFailure, isConnectionFailure, isWrongDatabase } from './connection-failure.ts'
import { placeOf } from './exclusive-client.ts'
import type { RedisConfig } from './options.ts'
import { ReplyTimeouts } from './reply-timeouts.ts'
import type { Script, ScriptClient } from './script.ts'

type Client = Redis | Cluster
type Methods = Readonly<Record<string, (...args: unknown[]) => unknown>>

// Frameworks give up on a plugin that is not ready after ten seconds, and then can't say why it was not.
const START_TIMEOUT_MS = 8_000
const MAX_RECONNECT_DELAY_MS = 1_000
/** How many commands go out in one write. */
const PACK = 16

/**
 * The one connection that all scopes share, or in a cluster one to each master. What is sent while it is not there waits
 * for it to come back, at most `commandTimeoutMs`, and is then not sent at all: nothing happens after its caller was told
 * that it failed. What was under way when it was lost rejects, and is never sent again.
 */
export class SharedClient {
  client: Client
  readonly isCluster: boolean
  readonly timeouts: ReplyTimeouts
  readonly #resource: string
  readonly #config: RedisConfig
  readonly #logger: () => Logger
  readonly #owned: boolean
  readonly #corks: boolean
  #corked: { cork(): void; uncork(): void } | undefined
  /** How many commands were sent in this turn of the event loop. */
  #inTurn = 0
  #lastError: unknown
  #wrongDatabase: unknown
  #reported = false
  #becomingReady: Promise<void> | undefined

  constructor(resource: string, config: RedisConfig, logger: () => Logger) {
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
    this.#cork()
    return this.timeouts.bound(call(this.client, method, args), this.#late, this.#failed)
  }

  /** Sends what `send` sends, once the connection is there, and bounds how long that takes altogether. */
  sending<Result>(send: (client: Client) => PromiseLike<Result>): Promise<Result> {
    const begin = () => {
      this.#cork()
      return send(this.client)
    }
    if (this.isReady) return this.timeouts.bound(begin(), this.#late, this.#failed)
    // Between the event and us it may have gone again.
    const begunWhenReady = () => (this.isReady ? begin() : Promise.reject(new Error('Connection is closed.')))
    return this.timeouts.boundAfter(this.#whenReady(), begunWhenReady, this.#late, this.#failed)
  }

  readonly #late = (): unknown => this.failure(new Error('Command timed out'))
  readonly #failed = (error: unknown): unknown => this.failure(error)

  /** Runs a script of ours. */
  run(
    script: Script,
    keys: readonly string[],
    args: readonly (string | number)[],
    timeoutMs?: number,
  ): Promise<unknown> {
    const running = this.sending((client) => script.run(client as unknown as ScriptClient, keys, args))
    if (timeoutMs === undefined || timeoutMs >= this.#config.commandTimeoutMs) return running
    running.catch(() => {})
    return this.#inTime(running, timeoutMs).catch((error: unknown) => {
      throw this.failure(error)
    })
  }

  /** What a failed command is reported as: what Redis itself said comes as it is. */
  failure(error: unknown, outcome?: 'unknown'): unknown {
    if (!isConnectionFailure(error)) return error
    return connectionFailure(this.#resource, this.place, error, outcome)
  }

  /**
   * What is sent in this turn of the event loop goes out in few writes: the first command at once, so that one alone does
   * not wait, and those after it in packs, so that the server works on one while the next is made.
   */
  #cork(): void {
    if (!this.#corks) return
    const place = this.#inTurn++
    if (place === 0) setImmediate(this.#uncork)
    else if (place % PACK === 1) {
      const { stream } = this.client as Redis
      this.#corked?.uncork()
      stream.cork()
      this.#corked = stream
    }
  }

  readonly #uncork = (): void => {
    this.#corked?.uncork()
    this.#corked = undefined
    this.#inTurn = 0
  }

  /** Resolves when the connection is there; rejects when the attempt that is under way, or the next one, fails. */
  #whenReady(): Promise<void> {
    this.#becomingReady ??= outsideEveryScope(() => this.#becomeReady()).finally(() => {
      this.#becomingReady = undefined
    })
    return this.#becomingReady
  }

  #becomeReady(): Promise<void> {
    const { client } = this
    if (this.isReady) return Promise.resolve()
    // The end of the one before is no failure of the next.
    let closing = client.status === 'ready'
    return new Promise((resolve, reject) => {
      const settle = (error?: unknown) => {
        client.off('ready', succeed)
        client.off('close', failUnlessClosing)
        client.off('end', fail)
        if (error === undefined) resolve()
        else reject(error)
      }
      const succeed = () => settle()
      const fail = () => settle(this.#lastError ?? new Error('Connection is closed.'))
      const failUnlessClosing = () => {
        if (!closing) fail()
        closing = false
      }
      client.on('ready', succeed)
      client.on('close', failUnlessClosing)
      client.on('end', fail)
      if (client.status === 'wait' || (client.status === 'end' && this.#owned)) client.connect().catch(settle)
      else if (client.status === 'end') fail()
    })
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

  readonly #noteReady = (): void => {
    this.#lastError = undefined
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

function neverResends(client: Client): boolean {
  return !client.isCluster && (client as Redis).options.autoResendUnfulfilledCommands === false
}

function clientOf(config: RedisConfig): Client {
  const { source } = config
  if (source.tag === 'client') return source.client
  const own = {
    lazyConnect: true,
    enableOfflineQueue: false,
    autoResendUnfulfilledCommands: false,
    maxRetriesPerRequest: null,
    retryStrategy: reconnectDelayMs,
  }
  if (source.tag === 'url') return new Redis(source.url, { ...source.connection, ...own })
  if (source.tag === 'sentinels') return new Redis({ ...source.connection, ...own })
  return new Cluster(source.nodes, {
    ...source.options,
    lazyConnect: true,
    clusterRetryStrategy: reconnectDelayMs,
    // A node that is lost must not have done twice what it was asked.
    retryDelayOnFailover: 0,
    redisOptions: { ...source.connection },
  })
}

function reconnectDelayMs(attempt: number): number {
  return Math.min(2 ** (attempt - 1) * 25, MAX_RECONNECT_DELAY_MS) * (0.5 + Math.random() / 2)
}
