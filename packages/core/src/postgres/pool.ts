import { CircuitBreaker } from '../circuit-breaker.ts'
import { OverloadedError, PoolExhaustedError, type ReqscopeError, type ScopeDescription } from '../errors.ts'
import { publish } from '../events.ts'
import { SiteRecorder } from '../scope/acquisition-site.ts'
import { outsideEveryScope } from '../scope/current.ts'
import type { Ledger, LedgerEntry } from '../scope/ledger.ts'
import type { Logger } from '../scope/logger.ts'
import { type Waiting, WaitQueue } from '../scope/wait-queue.ts'
import { Connection } from './connection.ts'
import type { PostgresConfig } from './options.ts'
import { KnownTexts } from './statement-text.ts'

/** Who asks for a connection. */
export interface Borrower extends Waiting {
  readonly scope: ScopeDescription
  /** Whether it has held one before: then it goes ahead of those who have not, so work that began finishes. */
  readonly heldBefore: boolean
  /** How many it holds. */
  readonly holds: number
}

/** A lease as its pool sees it. */
export interface PooledLease extends LedgerEntry {
  readonly connection: Connection
  /** Gives the connection up if nothing needs it right now. */
  yieldIfIdle(): Connection | undefined
  /** Looks after itself, every now and then: leaks, statements the server will never answer. */
  inspect(now: number): void
}

// Frameworks give up on a plugin that is not ready after ten seconds, and then can't say why it was not.
const START_TIMEOUT_MS = 8_000
const RETRY_OPENING_MS = 200
/** After how long an opening counts as slow: then those who wait are given what others only keep. */
const SLOW_OPENING_MS = 50
/** How long a connection that was idle may take to say that it works, in milliseconds. */
const PING_TIMEOUT_MS = 1_000
/** How long one that worked a moment ago may take, in milliseconds. */
const MEASURE_TIMEOUT_MS = 5_000

/** The connections of one resource: at most `max`, handed to one borrower at a time, with a bounded wait. */
export class Pool {
  readonly config: PostgresConfig
  readonly texts = new KnownTexts()
  readonly sites: SiteRecorder
  readonly #resource: string
  readonly #logger: () => Logger
  readonly #ledger: Ledger
  readonly #leases = new Set<PooledLease>()
  readonly #connections = new Set<Connection>()
  readonly #circuit: CircuitBreaker
  readonly #idle: Connection[] = []
  readonly #queue: WaitQueue<Connection, Borrower>
  #opening = 0
  #validating = 0
  #reopening: NodeJS.Timeout | undefined
  #housekeeping: NodeJS.Timeout | undefined
  #lastFailure: unknown
  #closing = false
  #queryMs: number | undefined

  constructor(
    resource: string,
    config: PostgresConfig,
    runtime: { readonly ledger: Ledger; readonly logger: () => Logger },
  ) {
    this.#resource = resource
    this.config = config
    this.sites = new SiteRecorder(config.acquisitionSites)
    this.#ledger = runtime.ledger
    this.#logger = runtime.logger
    this.#queue = new WaitQueue(config.acquireTimeoutMs, (borrower, waitedMs) =>
      this.exhausted(borrower, 'timeout', waitedMs),
    )
    this.#circuit = new CircuitBreaker(resource, config.circuitBreaker, {
      opened: (cause) => void this.#reset(cause),
      closed: () => {
        publish('reqscope:circuit:closed', () => ({ resource }))
        this.#logger().info({ resource }, `${resource} can be reached again`)
      },
    })
  }

  /** A lease is out. */
  record(lease: PooledLease): void {
    this.#leases.add(lease)
    this.#ledger.record(lease)
  }

  /** It is back. */
  strike(lease: PooledLease): void {
    this.#leases.delete(lease)
    this.#ledger.strike(lease)
  }

  get waiting(): number {
    return this.#queue.size
  }

  get counts() {
    return {
      circuit: this.#circuit.state,
      max: this.config.max,
      open: this.#connections.size,
      idle: this.#idle.length,
      leased: this.#leases.size,
      opening: this.#opening,
      waiting: this.waiting,
      expectedWaitMs: Math.round(this.expectedWaitMs),
      longestWaitMs: Math.round(this.#queue.longestWaitMs),
    }
  }

  /** How long who asks now would wait, by how fast those who wait are served; 0 where nobody does. */
  get expectedWaitMs(): number {
    return this.#queue.expectedWaitMs
  }

  /** How long the shortest of queries took when it was last tried, in milliseconds. */
  get queryMs(): number | undefined {
    return this.#queryMs
  }

  get lastFailure(): unknown {
    return this.#lastFailure
  }

  /** Opens the first connection, so that what is wrong with the server or the options is known at once. */
  async start(): Promise<void> {
    this.#closing = false
    const timeoutMs = Math.min(this.config.connectTimeoutMs, START_TIMEOUT_MS)
    this.#admit(await outsideEveryScope(() => Connection.open(this.#resource, this.config, timeoutMs)))
  }

  /**
   * A connection for `borrower`, at once where one is free.
   *
   * @throws PoolExhaustedError when it takes too long or too many wait already.
   * @throws ConnectionLostError when none can be opened.
   */
  acquire(borrower: Borrower): Connection | Promise<Connection> {
    if (this.#closing) throw new OverloadedError({ reason: 'shutdown', what: `A connection of ${this.#resource}` })
    const found = this.#idle.pop() ?? (this.#hasRoom ? undefined : this.#yielded())
    if (found === undefined) {
      if (this.#hasRoom) void this.#open()
    } else if (this.#isStale(found)) {
      void this.#validate(found)
    } else {
      return found
    }
    return this.#wait(borrower)
  }

  get #hasRoom(): boolean {
    return this.#connections.size + this.#opening < this.config.max
  }

  /** The connection of a lease that has no need of it right now. */
  #yielded(): Connection | undefined {
    for (const lease of this.#leases) {
      const connection = lease.yieldIfIdle()
      if (connection !== undefined) return connection
    }
    return undefined
  }

  /** Takes back a connection that is idle and clean, and hands it to whoever waits. */
  giveBack(connection: Connection): void {
    if (connection.isGone) return
    if (this.#closing || this.#isTooOld(connection)) {
      this.#close(connection, this.#closing ? 'the application closed' : 'it had reached its lifetime')
      return
    }
    if (this.#queue.serve(connection)) return
    connection.idleSince = performance.now()
    this.#idle.push(connection)
  }

  /** Resets a connection that has session state, then takes it back; one that can't be reset is discarded. */
  async giveBackAfterReset(connection: Connection): Promise<void> {
    if (await outsideEveryScope(() => connection.reset())) this.giveBack(connection)
    else connection.discard('its session state could not be reset')
  }

  /** Refuses those who wait for `borrower`, which has been cancelled or has ended. */
  refuse(borrower: Borrower, error: ReqscopeError): void {
    this.#queue.refuse(borrower, error)
  }

  /**
   * Looks whether there is a connection that works and how long it takes to answer, and opens one where there is none:
   * otherwise a server that is back would stay down in the eyes of whoever sends no work to an application that says so.
   */
  async probe(): Promise<void> {
    if (this.#closing) return
    const oldest = this.#idle[0]
    if (oldest !== undefined) {
      this.#idle.shift()
      const askedAt = performance.now()
      if (this.#isStale(oldest)) await this.#validate(oldest)
      else await this.#measure(oldest)
      this.#queryMs = Math.round(performance.now() - askedAt)
    }
    if (this.#connections.size === 0 && this.#hasRoom) await this.#open()
  }

  /** Closes all connections: idle ones in good order, the others whatever they do. */
  async stop(): Promise<void> {
    this.#closing = true
    clearInterval(this.#housekeeping)
    clearTimeout(this.#reopening)
    this.#housekeeping = this.#reopening = undefined
    const refusal = new OverloadedError({ reason: 'shutdown', what: `A connection of ${this.#resource}` })
    this.#queue.refuseAll(refusal)
    const idle = this.#idle.splice(0)
    for (const connection of this.#connections) {
      if (!idle.includes(connection)) connection.discard('the application closed')
    }
    await Promise.allSettled(idle.map((connection) => connection.close('the application closed')))
  }

  exhausted(
    borrower: Borrower,
    reason: 'timeout' | 'queue-full' | 'session-busy',
    waitedMs: number,
  ): PoolExhaustedError {
    publish('reqscope:pool:exhausted', () => ({ resource: this.#resource, scope: borrower.scope, reason, waitedMs }))
    return new PoolExhaustedError({
      resource: this.#resource,
      max: this.config.max,
      waiting: this.waiting,
      opening: this.#opening,
      heldByScope: borrower.holds,
      waitedMs,
      reason,
      retryAfterMs: 1_000,
      cause: this.#lastFailure,
    })
  }

  #wait(borrower: Borrower): Promise<Connection> {
    // For whom a connection is being opened there is no queue.
    if (this.waiting - this.#opening - this.#validating >= this.config.maxWaiting) {
      // Those who hold a connection already may exceed the bound: they are few, and others wait for what they hold.
      if (borrower.holds === 0) throw this.exhausted(borrower, 'queue-full', 0)
    }
    return this.#queue.wait(borrower, borrower.heldBefore)
  }

  /** Opens a connection for whoever waits; resolves when that has succeeded or failed. */
  #open(): Promise<void> {
    this.#opening++
    const slow = outsideEveryScope(() => setTimeout(() => this.#serveByYielding(), SLOW_OPENING_MS))
    return outsideEveryScope(() => this.#circuit.connect(() => Connection.open(this.#resource, this.config))).then(
      (connection) => {
        clearTimeout(slow)
        this.#opening--
        this.#admit(connection)
      },
      (error: unknown) => {
        clearTimeout(slow)
        this.#opening--
        this.#openingFailed(error)
      },
    )
  }

  /** No other connection is to come soon, so those that scopes only keep have to do. */
  #serveByYielding(): void {
    while (this.waiting > 0) {
      const connection = this.#yielded()
      if (connection === undefined) return
      this.giveBack(connection)
    }
  }

  #admit(connection: Connection): void {
    this.#lastFailure = undefined
    this.#connections.add(connection)
    this.#queue.forgetPace()
    connection.onGone = () => this.#lost(connection)
    if (!this.#closing) {
      this.#housekeeping ??= outsideEveryScope(() =>
        setInterval(() => this.#keepHouse(), this.#housekeepingEveryMs()).unref(),
      )
    }
    this.giveBack(connection)
  }

  /** With other connections alive those who wait may still be served by them; without any they can only be told. */
  #openingFailed(error: unknown): void {
    this.#lastFailure = error
    if (this.#connections.size === 0 && this.#opening === 0) {
      this.#queue.refuseAll(error)
      return
    }
    this.#serveByYielding()
    if (this.#closing) return
    this.#reopening ??= outsideEveryScope(() =>
      setTimeout(() => {
        this.#reopening = undefined
        this.#openForWaiters()
      }, RETRY_OPENING_MS).unref(),
    )
  }

  #lost(connection: Connection): void {
    this.#connections.delete(connection)
    const index = this.#idle.indexOf(connection)
    if (index >= 0) this.#idle.splice(index, 1)
    this.#openForWaiters()
  }

  #openForWaiters(): void {
    if (this.#closing || this.#reopening !== undefined) return
    const room = this.config.max - this.#connections.size - this.#opening
    const unserved = this.waiting - this.#opening - this.#validating
    for (let count = Math.min(room, unserved); count > 0; count--) void this.#open()
  }

  /** Asks a connection that was idle for long whether it still works: who waits gets it, or the one that replaces it. */
  async #validate(connection: Connection): Promise<void> {
    // Half of the time that is left to who waits is for the replacement.
    const timeoutMs = Math.min(PING_TIMEOUT_MS, Math.ceil(this.config.acquireTimeoutMs / 2))
    this.#validating++
    const answers = await outsideEveryScope(() => connection.answers(timeoutMs))
    this.#validating--
    if (answers) this.giveBack(connection)
    else connection.discard('it no longer answered after being idle')
  }

  /** The server can't be reached: what is idle is asked whether it is alive, and goes if it is not. */
  async #reset(cause: unknown): Promise<void> {
    if (this.#closing) return
    const asked = this.#idle.splice(0)
    await Promise.all(asked.map((connection) => this.#validate(connection)))
    const discarded = asked.filter(({ isGone }) => isGone).length
    const kept = this.#connections.size
    publish('reqscope:circuit:opened', () => ({ resource: this.#resource, discarded, kept, cause }))
    this.#logger().warn(
      { err: cause, resource: this.#resource, discarded, kept },
      `${this.#resource} can not be reached: the pool was reset`,
    )
  }

  /** It worked a moment ago: slow is not dead, so it has long to answer. */
  async #measure(connection: Connection): Promise<void> {
    if (await outsideEveryScope(() => connection.answers(MEASURE_TIMEOUT_MS))) this.giveBack(connection)
    else connection.discard('it did not answer when it was asked how it is')
  }

  #isStale(connection: Connection): boolean {
    return performance.now() - connection.idleSince >= this.config.validateAfterIdleMs
  }

  #isTooOld(connection: Connection): boolean {
    const { maxLifetimeMs } = this.config
    // The jitter is a connection's own, and the same each time it is asked for: a tenth at most, by its process id.
    const jitter = 1 - (((connection.backend ?? 0) * 2_654_435_761) % 1_000) / 10_000
    return maxLifetimeMs > 0 && performance.now() - connection.openedAt >= maxLifetimeMs * jitter
  }

  #housekeepingEveryMs(): number {
    const { idleTimeoutMs, leakThresholdMs, maxLifetimeMs, statementTimeoutMs, validateAfterIdleMs } = this.config
    const all = [idleTimeoutMs, leakThresholdMs, maxLifetimeMs, statementTimeoutMs, validateAfterIdleMs]
    const shortest = Math.min(...all.filter((ms) => ms > 0), 20_000)
    return Math.max(20, Math.ceil(shortest / 4))
  }

  #keepHouse(): void {
    const now = performance.now()
    const { idleTimeoutMs } = this.config
    for (const connection of [...this.#idle]) {
      const expired = idleTimeoutMs > 0 && now - connection.idleSince >= idleTimeoutMs
      if (!expired && !this.#isTooOld(connection)) continue
      this.#idle.splice(this.#idle.indexOf(connection), 1)
      this.#close(connection, expired ? 'it had been idle for long' : 'it had reached its lifetime')
    }
    for (const lease of [...this.#leases]) {
      lease.inspect(now)
      // A scope may keep one for as long as it likes: whether that still works is asked before its next statement.
      const stale = this.#isStale(lease.connection) ? lease.yieldIfIdle() : undefined
      if (stale !== undefined) void this.#validate(stale)
    }
  }

  #close(connection: Connection, reason: string): void {
    void connection.close(reason).catch((error: unknown) => {
      this.#logger().debug({ err: error, resource: this.#resource }, 'a connection failed to close')
    })
  }
}
