import type { Socket } from 'node:net'
import { Command, Redis } from 'ioredis'
import type { ConnectionLostError } from '../errors.ts'
import { publish } from '../events.ts'
import { outsideEveryScope } from '../scope/current.ts'
import { connectionFailure, isWrongDatabase } from './connection-failure.ts'
import type { Executed, Execution } from './execution.ts'
import { Leftovers } from './leftovers.ts'
import type { ClientOptions } from './options.ts'
import type { WriteTurn } from './write-turn.ts'

/** Settings with which a connection never becomes another one behind its holder's back. */
const NEVER_ANOTHER_ONE = {
  lazyConnect: true,
  retryStrategy: () => null,
  reconnectOnError: null,
  maxRetriesPerRequest: 0,
  autoResubscribe: false,
  autoResendUnfulfilledCommands: false,
  enableOfflineQueue: false,
  enableAutoPipelining: false,
  commandTimeout: undefined,
  blockingTimeout: undefined,
  socketTimeout: undefined,
  monitor: false,
  readOnly: false,
  scripts: undefined,
} as const satisfies ClientOptions

type WriteStream = Parameters<Redis['sendCommand']>[1]

/**
 * A connection that one holder at a time has to itself. It keeps account of what is sent on it, so that it is known what
 * it takes to make it as it was; once it is closed it stays closed.
 */
export class ExclusiveClient extends Redis {
  /** The server's number for it, as in CLIENT LIST. */
  backend: number | undefined
  idleSince = 0
  /** The name of the last command, for reports. */
  lastCommand: string | undefined
  /** Told when it is gone, once. */
  onGone: (() => void) | undefined
  readonly #resource: string
  readonly #turn: WriteTurn
  readonly #leftovers: Leftovers
  #gone: { readonly reason: string } | undefined
  #lastError: unknown

  /**
   * Opens one.
   *
   * @throws ConnectionLostError when that fails or takes too long.
   */
  static async open(
    resource: string,
    options: ClientOptions,
    timeoutMs: number,
    turn: WriteTurn,
  ): Promise<ExclusiveClient> {
    const begun = performance.now()
    const client = new ExclusiveClient(resource, options, turn)
    const timer = outsideEveryScope(() => setTimeout(() => client.drop('connect ETIMEDOUT'), timeoutMs))
    try {
      await client.connect()
      if (isWrongDatabase(client.#lastError)) throw client.#lastError
      client.backend = (await client.client('ID')) as number
    } catch (error) {
      client.drop('it could not be opened')
      const cause = client.#gone?.reason === 'connect ETIMEDOUT' ? new Error('connect ETIMEDOUT') : client.#lastError
      throw connectionFailure(resource, client.place, cause ?? error)
    } finally {
      clearTimeout(timer)
    }
    const tookMs = performance.now() - begun
    publish('reqscope:connection:opened', () => ({ resource, backend: client.backend, tookMs }))
    return client
  }

  private constructor(resource: string, options: ClientOptions, turn: WriteTurn) {
    super({ ...options, ...NEVER_ANOTHER_ONE })
    this.#resource = resource
    this.#turn = turn
    this.#leftovers = new Leftovers(this.options.db ?? 0)
    this.on('error', (error) => {
      this.#lastError = error
    })
    this.on('close', () => this.#leave('the connection was lost'))
    this.on('end', () => this.#leave('the connection was lost'))
  }

  get place(): string {
    return placeOf(this.options)
  }

  get isGone(): boolean {
    if (this.#gone !== undefined) return true
    // Of its end ioredis tells later than the socket knows.
    return this.backend !== undefined && (this.status !== 'ready' || !this.stream.writable)
  }

  /** Commands that are not answered yet. */
  get inFlight(): number {
    return this.commandQueue.length
  }

  /** Nothing of what its holder did is left on it. */
  get isClean(): boolean {
    return this.#isAtRest && this.#leftovers.areNone
  }

  get #isAtRest(): boolean {
    return !this.isGone && this.inFlight === 0
  }

  /** Why it can't be handed on. */
  get spoiltBy(): string {
    if (this.#gone !== undefined) return this.#gone.reason
    if (this.#leftovers.spoiltBy !== undefined) return this.#leftovers.spoiltBy
    if (this.inFlight > 0) return 'something was still running on it'
    return 'its state could not be restored'
  }

  /** A command as its own methods would make it. */
  makeCommand(name: string, args: readonly unknown[], replyEncoding: 'utf8' | null = 'utf8'): Command {
    const { keyPrefix, showFriendlyErrorStack } = this.options
    return new Command(name, args as never[], {
      replyEncoding,
      ...(keyPrefix && { keyPrefix }),
      ...(showFriendlyErrorStack && { errorStack: new Error() }),
    })
  }

  override sendCommand(command: Command, stream?: WriteStream): unknown {
    if (this.status === 'ready') {
      this.lastCommand = command.name.toLowerCase()
      this.#leftovers.note(this.lastCommand, command)
      this.#turn.hold(this.stream as Socket)
    }
    return super.sendCommand(command, stream)
  }

  /** Sends MULTI, some commands and EXEC, in one write; resolves to what EXEC answers. */
  execute(execution: Execution): Promise<Executed> {
    const { text } = execution
    let isWritten = false
    const stream = {
      write: () => {
        if (!isWritten) this.stream.write(text)
        isWritten = true
      },
    }
    this.lastCommand = 'exec'
    this.#leftovers.noteExecution(execution.promise)
    if (this.status === 'ready') this.#turn.hold(this.stream as Socket)
    for (let count = execution.awaited; count > 0; count--) super.sendCommand(execution as never, stream as never)
    return execution.promise
  }

  /** Makes it as it was, and says whether it is. */
  async makeClean(timeoutMs: number): Promise<boolean> {
    if (!this.#isAtRest || !this.#leftovers.canBeUndone) return false
    const undoing = this.#leftovers.undo(this)
    if (undoing.length === 0) return true
    return (await this.#inTime(Promise.all(undoing), timeoutMs)) && this.isClean
  }

  /** Whether it still works. */
  answers(timeoutMs: number): Promise<boolean> {
    return !this.isGone ? this.#inTime(this.ping(), timeoutMs) : Promise.resolve(false)
  }

  async #inTime(work: Promise<unknown>, timeoutMs: number): Promise<boolean> {
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<boolean>((resolve) => {
      timer = outsideEveryScope(() => setTimeout(resolve, timeoutMs, false))
    })
    const done = await Promise.race([
      work.then(
        () => true,
        () => false,
      ),
      late,
    ])
    clearTimeout(timer)
    return done
  }

  /** Ends it at once, whatever it does; what it was asked rejects. */
  drop(reason: string): void {
    const { stream } = this
    this.#leave(reason)
    this.disconnect()
    // Not in good order: a server that is stuck would keep it waiting, and a blocked command its client.
    stream?.destroy()
  }

  #leave(reason: string): void {
    if (this.#gone !== undefined) return
    this.#gone = { reason }
    if (this.backend === undefined) return
    publish('reqscope:connection:closed', () => ({ resource: this.#resource, backend: this.backend, reason }))
    this.onGone?.()
  }

  lostError(error: unknown, outcome?: 'unknown'): ConnectionLostError {
    return connectionFailure(this.#resource, this.place, this.#lastError ?? error, outcome)
  }
}

/** Where a client connects to, as far as it may be shown to anybody. */
export function placeOf(options: ClientOptions): string {
  if (options.sentinels) return `the master '${options.name}' of its sentinels`
  return options.path ?? `${options.host ?? 'localhost'}:${options.port ?? 6379}`
}
