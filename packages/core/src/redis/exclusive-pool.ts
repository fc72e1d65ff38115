import { OverloadedError, PoolExhaustedError, type ReqscopeError, type ScopeDescription } from '../errors.ts'
import { publish } from '../events.ts'
import { outsideEveryScope } from '../scope/current.ts'
import { type Waiting, WaitQueue } from '../scope/wait-queue.ts'
import type { ExclusiveClient } from './exclusive-client.ts'
import type { ExclusiveLease } from './exclusive-lease.ts'
import type { RedisConfig } from './options.ts'

/** Who asks for a connection. */
export interface Borrower extends Waiting {
  readonly scope: ScopeDescription
  /** How many it holds. */
  readonly holds: number
}

const RETRY_OPENING_MS = 200
/** After how long without use a connection is asked whether it still works, in milliseconds. */
const STALE_AFTER_MS = 30_000
const PING_TIMEOUT_MS = 1_000

/** The exclusive connections to one server: at most `max`, lent to one holder at a time, with a bounded wait. */
export class ExclusivePool {
  readonly config: RedisConfig
  readonly resource: string
  readonly leases = new Set<ExclusiveLease>()
  readonly #open: () => Promise<ExclusiveClient>
  readonly #all = new Set<ExclusiveClient>()
  readonly #idle: ExclusiveClient[] = []
  readonly #waiters: WaitQueue<ExclusiveClient, Borrower>
  #opening = 0
  #validating = 0
  #lastFailure: unknown
  #reopening: NodeJS.Timeout | undefined
  #housekeeping: NodeJS.Timeout | undefined
  #closed = false

  /** @param open opens one connection. */
  constructor(resource: string, config: RedisConfig, open: () => Promise<ExclusiveClient>) {
    this.resource = resource
    this.config = config
    this.#open = open
    this.#waiters = new WaitQueue(config.exclusive.acquireTimeoutMs, (borrower, waitedMs) =>
      this.#exhausted(borrower, 'timeout', waitedMs),
    )
  }

  get counts() {
    return {
      max: this.config.exclusive.max,
      open: this.#all.size,
      idle: this.#idle.length,
      leased: this.leases.size,
      opening: this.#opening,
      waiting: this.#waiters.size,
    }
  }

  /** Opens as many as are always to be there. */
  async start(): Promise<void> {
    this.#closed = false
    const { min } = this.config.exclusive
    await Promise.all(Array.from({ length: min - this.#all.size }, async () => this.#admit(await this.#dial())))
  }

  /**
   * A connection, at once where one is idle.
   *
   * @throws PoolExhaustedError when it takes too long or too many wait already.
   * @throws ConnectionLostError when none can be opened.
   */
  acquire(borrower: Borrower): ExclusiveClient | Promise<ExclusiveClient> {
    if (this.#closed) throw this.#shuttingDown()
    let found = this.#idle.pop()
    while (found?.isGone) found = this.#idle.pop() // it is about to be told
    if (found !== undefined && performance.now() - found.idleSince < STALE_AFTER_MS) return found
    if (found !== undefined) void this.#validate(found)
    else if (this.#hasRoom) this.#openOne()
    return this.#wait(borrower)
  }

  /** Takes back a connection that is clean, and hands it to whoever has waited longest. */
  giveBack(client: ExclusiveClient): void {
    if (client.isGone) return
    if (this.#closed) {
      client.drop('the application closed')
      return
    }
    if (this.#waiters.serve(client)) return
    client.idleSince = performance.now()
    this.#idle.push(client)
  }

  /** Refuses those who wait for `borrower`, which was cancelled or has ended. */
  refuse(borrower: Borrower, error: ReqscopeError): void {
    this.#waiters.refuse(borrower, error)
  }

  /** Asks those that are idle whether they still work, and closes those that do not. */
  async reset(): Promise<{ readonly discarded: number; readonly kept: number }> {
    const asked = this.#idle.splice(0)
    await Promise.all(asked.map((client) => this.#validate(client)))
    return { discarded: asked.filter(({ isGone }) => isGone).length, kept: this.#all.size }
  }

  /** Closes all connections, whatever they do. */
  stop(): void {
    this.#closed = true
    clearInterval(this.#housekeeping)
    clearTimeout(this.#reopening)
    this.#housekeeping = this.#reopening = undefined
    this.#waiters.refuseAll(this.#shuttingDown())
    this.#idle.length = 0
    for (const client of [...this.#all]) client.drop('the application closed')
  }

  get #hasRoom(): boolean {
    return this.#all.size + this.#opening < this.config.exclusive.max
  }

  #shuttingDown(): OverloadedError {
    return new OverloadedError({ reason: 'shutdown', what: `A connection of ${this.resource}` })
  }

  #wait(borrower: Borrower): Promise<ExclusiveClient> {
    const { maxWaiting } = this.config.exclusive
    // For whom a connection is being opened there is no queue.
    if (this.#waiters.size - this.#opening - this.#validating >= maxWaiting) {
      throw this.#exhausted(borrower, 'queue-full', 0)
    }
    return this.#waiters.wait(borrower, false)
  }

  #exhausted(borrower: Borrower, reason: 'timeout' | 'queue-full', waitedMs: number): PoolExhaustedError {
    publish('reqscope:pool:exhausted', () => ({ resource: this.resource, scope: borrower.scope, reason, waitedMs }))
    return new PoolExhaustedError({
      resource: this.resource,
      max: this.config.exclusive.max,
      waiting: this.#waiters.size,
      opening: this.#opening,
      heldByScope: borrower.holds,
      waitedMs,
      reason,
      retryAfterMs: 1_000,
      cause: this.#lastFailure,
    })
  }

  #dial(): Promise<ExclusiveClient> {
    return outsideEveryScope(() => this.#open())
  }

  #openOne(): void {
    this.#opening++
    this.#dial().then(
      (client) => {
        this.#opening--
        this.#admit(client)
        this.#keepWarm()
      },
      (error: unknown) => {
        this.#opening--
        this.#openingFailed(error)
      },
    )
  }

  #admit(client: ExclusiveClient): void {
    if (client.isGone) {
      this.#openForWaiters()
      return
    }
    this.#lastFailure = undefined
    this.#all.add(client)
    client.onGone = () => this.#lost(client)
    if (!this.#closed) {
      this.#housekeeping ??= outsideEveryScope(() =>
        setInterval(() => this.#keepHouse(), this.#housekeepingEveryMs()).unref(),
      )
    }
    this.giveBack(client)
  }

  /** With other connections alive those who wait may still be served by them; without any they can only be told. */
  #openingFailed(error: unknown): void {
    this.#lastFailure = error
    if (this.#all.size === 0 && this.#opening === 0) {
      this.#waiters.refuseAll(error)
      return
    }
    if (this.#closed || this.#waiters.size === 0) return
    this.#reopening ??= outsideEveryScope(() =>
      setTimeout(() => {
        this.#reopening = undefined
        this.#openForWaiters()
      }, RETRY_OPENING_MS).unref(),
    )
  }

  #lost(client: ExclusiveClient): void {
    this.#all.delete(client)
    const index = this.#idle.indexOf(client)
    if (index >= 0) this.#idle.splice(index, 1)
    this.#openForWaiters()
    // One at a time: of a server that is gone all are lost at once, and housekeeping asks for it later.
    if (this.#opening === 0) this.#keepWarm()
  }

  /** Opens one more where there are fewer than there should always be. */
  #keepWarm(): void {
    if (!this.#closed && this.#all.size + this.#opening < this.config.exclusive.min) this.#openOne()
  }

  #openForWaiters(): void {
    if (this.#closed || this.#reopening !== undefined) return
    const room = this.config.exclusive.max - this.#all.size - this.#opening
    const unserved = this.#waiters.size - this.#opening - this.#validating
    for (let count = Math.min(room, unserved); count > 0; count--) this.#openOne()
  }

  async #validate(client: ExclusiveClient): Promise<void> {
    // Half of the time that is left to who waits is for the replacement.
    const timeoutMs = Math.min(PING_TIMEOUT_MS, Math.ceil(this.config.exclusive.acquireTimeoutMs / 2))
    this.#validating++
    const answers = await outsideEveryScope(() => client.answers(timeoutMs))
    this.#validating--
    if (answers) this.giveBack(client)
    else client.drop('it no longer answered after being idle')
  }

  #housekeepingEveryMs(): number {
    const { leakThresholdMs, exclusive } = this.config
    const shortest = Math.min(...[leakThresholdMs, exclusive.idleTimeoutMs].filter((ms) => ms > 0), 20_000)
    return Math.max(20, Math.ceil(shortest / 4))
  }

  #keepHouse(): void {
    const now = performance.now()
    const { idleTimeoutMs, min } = this.config.exclusive
    for (const client of [...this.#idle]) {
      if (idleTimeoutMs === 0 || this.#all.size <= min || now - client.idleSince < idleTimeoutMs) continue
      client.drop('it had been idle for long')
    }
    for (const lease of this.leases) lease.inspect(now)
    this.#keepWarm()
  }
}
