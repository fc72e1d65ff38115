import { OverloadedError, PoolExhaustedError, type ReqscopeError, type ScopeDescription } from '../errors.ts'
import { publish } from '../events.ts'
import { outsideEveryScope } from '../scope/current.ts'
import type { ExclusiveClient } from './exclusive-client.ts'
import type { ExclusiveLease } from './exclusive-lease.ts'
import type { RedisConfig } from './options.ts'

/** Who asks for a connection. */
export interface Borrower {
  readonly scope: ScopeDescription
  /** How many it holds. */
  readonly holds: number
}

interface Waiter {
  readonly borrower: Borrower
  readonly since: number
  grant(client: ExclusiveClient): void
  refuse(error: unknown): void
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
  readonly #waiters: Waiter[] = []
  #opening = 0
  #validating = 0
  #lastFailure: unknown
  #expiry: NodeJS.Timeout | undefined
  #reopening: NodeJS.Timeout | undefined
  #housekeeping: NodeJS.Timeout | undefined
  #closed = false

  /** @param open opens one connection. */
  constructor(resource: string, config: RedisConfig, open: () => Promise<ExclusiveClient>) {
    this.resource = resource
    this.config = config
    this.#open = open
  }

  get counts() {
    return {
      max: this.config.exclusive.max,
      open: this.#all.size,
      idle: this.#idle.length,
      leased: this.leases.size,
      opening: this.#opening,
      waiting: this.#waiters.length,
    }
  }

  get hasWaiters(): boolean {
    return this.#waiters.length > 0
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
    const waiter = this.#waiters.shift()
    if (waiter === undefined) {
      client.idleSince = performance.now()
      this.#idle.push(client)
    } else {
      waiter.grant(client)
    }
  }

  /** Refuses those who wait for `borrower`, which was cancelled or has ended. */
  refuse(borrower: Borrower, error: ReqscopeError): void {
    for (const waiter of this.#waiters.filter((each) => each.borrower === borrower)) {
      this.#waiters.splice(this.#waiters.indexOf(waiter), 1)
      waiter.refuse(error)
    }
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
    clearTimeout(this.#expiry)
    clearTimeout(this.#reopening)
    this.#housekeeping = this.#expiry = this.#reopening = undefined
    for (const waiter of this.#waiters.splice(0)) waiter.refuse(this.#shuttingDown())
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
    const { maxWaiting, acquireTimeoutMs } = this.config.exclusive
    // For whom a connection is being opened there is no queue.
    if (this.#waiters.length - this.#opening - this.#validating >= maxWaiting) {
      throw this.#exhausted(borrower, 'queue-full', 0)
    }
    return new Promise((grant, refuse) => {
      this.#waiters.push({ borrower, since: performance.now(), grant, refuse })
      this.#expiry ??= this.#expireIn(acquireTimeoutMs)
    })
  }

  #exhausted(borrower: Borrower, reason: 'timeout' | 'queue-full', waitedMs: number): PoolExhaustedError {
    publish('reqscope:pool:exhausted', () => ({ resource: this.resource, scope: borrower.scope, reason, waitedMs }))
    return new PoolExhaustedError({
      resource: this.resource,
      max: this.config.exclusive.max,
      waiting: this.#waiters.length,
      opening: this.#opening,
      heldByScope: borrower.holds,
      waitedMs,
      reason,
      retryAfterMs: 1_000,
      cause: this.#lastFailure,
    })
  }

  // One timer for all: they wait equally long, in the order of arrival.
  #expireIn(delayMs: number): NodeJS.Timeout {
    return outsideEveryScope(() => setTimeout(() => this.#expire(), delayMs))
  }

  #expire(): void {
    const now = performance.now()
    const due = now - this.config.exclusive.acquireTimeoutMs + 1
    for (let first = this.#waiters[0]; first !== undefined && first.since <= due; first = this.#waiters[0]) {
      this.#waiters.shift()
      first.refuse(this.#exhausted(first.borrower, 'timeout', now - first.since))
    }
    const [next] = this.#waiters
    this.#expiry = next === undefined ? undefined : this.#expireIn(Math.max(1, next.since - due + 1))
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
      for (const waiter of this.#waiters.splice(0)) waiter.refuse(error)
      return
    }
    if (this.#closed || this.#waiters.length === 0) return
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
    const unserved = this.#waiters.length - this.#opening - this.#validating
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
