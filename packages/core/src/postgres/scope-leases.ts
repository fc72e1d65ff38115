import { type ReqscopeError, ScopeEndedError } from '../errors.ts'
import { publish } from '../events.ts'
import type { AcquisitionSite } from '../scope/acquisition-site.ts'
import { currentContext, outsideEveryScope } from '../scope/current.ts'
import { assertUsable } from '../scope/ownership.ts'
import type { Scope } from '../scope/scope.ts'
import { Connection } from './connection.ts'
import { type Hold, Lease, type LeaseHolder } from './lease.ts'
import type { Borrower, Pool } from './pool.ts'
import type { Statement } from './statement.ts'
import { StatementLog } from './statement-log.ts'

/**
 * The leases of one scope. Statements that are in no transaction share one, the sticky lease: the scope keeps it while
 * nobody else waits, and others are for what needs a connection to itself.
 */
export class ScopeLeases implements LeaseHolder, Borrower {
  readonly scope: Scope
  readonly resource: string
  /** Where statements are counted, or a summary is asked for. */
  readonly statements: StatementLog | undefined
  heldBefore = false
  waits = 0

  readonly #pool: Pool
  readonly takenAt: AcquisitionSite | undefined
  #waitedMs = 0
  readonly #all: Lease[] = []
  #sticky: Lease | undefined
  #acquiring: Promise<Lease> | undefined
  #onFree: (() => void)[] | undefined

  constructor(scope: Scope, resource: string, pool: Pool) {
    this.scope = scope
    this.resource = resource
    this.#pool = pool
    this.takenAt = pool.sites.record(scope.name, scope.handleOf)
    const { statementLog } = pool.config
    this.statements = statementLog.isOff && !scope.isSummarised ? undefined : new StatementLog(this, statementLog)
  }

  get holds(): number {
    return this.#all.length
  }

  get leakThresholdMs(): number {
    return this.#pool.config.leakThresholdMs
  }

  /** How long it has waited for connections, in milliseconds. */
  get waitedMs(): number {
    return this.#waitedMs
  }

  get statementTimeoutMs(): number {
    return this.#pool.config.statementTimeoutMs
  }

  /** @throws what `assertUsable` throws. */
  assertUsable(): void {
    assertUsable(this.scope, this.resource, this.takenAt)
  }

  /** Whether all it holds could be given back at once: at most the sticky lease, with nothing going on. */
  get isAtRest(): boolean {
    const lease = this.#sticky
    if (lease === undefined) return this.#all.length === 0 && this.waits === 0
    return this.#all.length === 1 && lease.isIdle && lease.hold === undefined && this.waits === 0
  }

  has(lease: Lease): boolean {
    return this.#all.includes(lease)
  }

  isSticky(lease: Lease): boolean {
    return lease === this.#sticky
  }

  /** Runs a statement on the sticky lease, which it acquires where there is none. */
  execute<Result>(statement: Statement<Result>): Promise<Result> {
    const lease = this.#sticky
    if (lease?.isReady && lease.hold === undefined) return lease.execute(statement)
    if (lease === undefined && this.#acquiring === undefined) {
      const acquired = this.#pool.acquire(this)
      if (acquired instanceof Connection) {
        this.#sticky = this.#grant(acquired)
        return this.#sticky.execute(statement)
      }
      void this.#acquireSticky(acquired).catch(() => {}) // whoever awaits the statement is told
    }
    return this.#executeOnSticky(statement)
  }

  /** The sticky lease if it is free, else one more. With session state on it, nothing else will do. */
  takeOver(hold: Hold): Lease | Promise<Lease> {
    const sticky = this.#sticky
    if (sticky === undefined || sticky.connection.isGone) return this.#oneMoreHeld(hold)
    if (sticky.hasSessionState) return this.#takeOverWithState(sticky, hold)
    if (!sticky.isIdle) return this.#oneMoreHeld(hold)
    this.#sticky = undefined
    sticky.holdFor(hold)
    return sticky
  }

  #oneMoreHeld(hold: Hold): Lease | Promise<Lease> {
    const held = (lease: Lease) => {
      lease.holdFor(hold)
      return lease
    }
    const lease = this.oneMore()
    return lease instanceof Lease ? held(lease) : lease.then(held)
  }

  async #takeOverWithState(sticky: Lease, hold: Hold): Promise<Lease> {
    const lease = await this.whenFree(
      sticky,
      (held) => held !== undefined && this.#sticky === sticky,
      () => {
        if (this.#sticky !== sticky || sticky.connection.isGone) return undefined
        sticky.holdFor(hold)
        return sticky
      },
    )
    if (lease === undefined) return this.takeOver(hold)
    await lease.whenSettled()
    return lease
  }

  /** One more lease, at once where a connection is free. */
  oneMore(acquired = this.#pool.acquire(this)): Lease | Promise<Lease> {
    if (acquired instanceof Connection) return this.#grant(acquired)
    const since = performance.now()
    return acquired.then((late) => {
      this.#waitedMs += performance.now() - since
      return this.#accept(late)
    })
  }

  /** Keeps a lease that is free again as the sticky one, or gives it back where there is one. */
  keep(lease: Lease): void | Promise<void> {
    if (this.#sticky !== undefined && this.#sticky !== lease) return this.giveBack(lease)
    this.#sticky = lease
    this.settled(lease)
  }

  giveBack(lease: Lease): Promise<void> | undefined {
    if (!this.#all.includes(lease) || lease.returning !== undefined) return lease.returning
    if (lease.isCancelling) {
      // A cancel request under way would hit whoever has the connection next.
      lease.returning = lease.whenReady().then(() => {
        lease.returning = undefined
        return this.giveBack(lease)
      })
      return lease.returning
    }
    if (lease === this.#sticky) this.#sticky = undefined
    const { connection } = lease
    const condition = lease.condition
    if (condition === 'session-state' && !connection.isGone) {
      // It stays in the ledger until it is fit for others.
      lease.returning = this.#pool.giveBackAfterReset(connection).finally(() => this.#forget(lease))
      return lease.returning
    }
    this.#forget(lease)
    if (condition === 'doubtful') connection.discard('its state was in doubt')
    else this.#pool.giveBack(connection)
    return undefined
  }

  /**
   * Calls `use` as soon as nothing that is `busy` holds the lease; right then, so that nobody can be quicker. A lease with
   * session state or a pinned one serves one transaction at a time: no other connection has that state.
   */
  async whenFree<Result>(
    lease: Lease,
    busy: (hold: Hold | undefined) => boolean,
    use: () => Result,
  ): Promise<Awaited<Result>> {
    const startedAt = performance.now()
    let late = false
    let timer: NodeJS.Timeout | undefined
    const expire = () => {
      late = true
      this.freed()
    }
    try {
      for (;;) {
        if (lease.isCancelling) await lease.whenReady()
        const refusal = this.refusal()
        if (refusal !== undefined) throw refusal
        if (!busy(lease.hold)) break
        if (late) throw this.#pool.exhausted(this, 'session-busy', performance.now() - startedAt)
        timer ??= outsideEveryScope(() => setTimeout(expire, this.#pool.config.acquireTimeoutMs))
        await new Promise<void>((resolve) => {
          this.#onFree ??= []
          this.#onFree.push(resolve)
        })
      }
    } finally {
      clearTimeout(timer)
    }
    return await use()
  }

  freed(): void {
    for (const resolve of this.#onFree?.splice(0) ?? []) resolve()
  }

  /** Cancels what runs and refuses who waits. */
  cancel(reason: ReqscopeError): void {
    this.#pool.refuse(this, reason)
    for (const lease of this.#all) {
      if (!lease.isIdle) void lease.cancelInFlight()
      else if (lease.connection.occupant !== undefined) lease.connection.discard(reason.message)
    }
    this.freed()
  }

  /** The scope has ended: what waits is refused, and what runs fails for that reason. */
  end(): void {
    const ended = this.endedError()
    this.#pool.refuse(this, ended)
    for (const lease of this.#all) lease.reclaimedBy = ended
    this.freed()
  }

  /** Gives everything back, and cancels what is still going on. */
  async reclaim(): Promise<void> {
    for (const lease of [...this.#all]) {
      if (!lease.isIdle || lease.hold !== undefined) this.reportReclaimed(lease)
      if (!lease.isIdle) await lease.cancelInFlight()
      await this.giveBack(lease)
    }
  }

  /** Gives back the sticky lease; returns nothing where that could be done at once. */
  giveBackSticky(): Promise<void> | undefined {
    return this.#sticky === undefined ? undefined : this.giveBack(this.#sticky)
  }

  reportReclaimed(reclaimed: Lease | undefined): void {
    if (reclaimed === undefined || this.scope.cancelReason !== undefined) return
    const lease = reclaimed.describe()
    publish('reqscope:lease:reclaimed', () => ({ lease }))
    this.warn({ lease }, 'a scope ended while its connection was still in use; it was taken back')
  }

  endedError(): ScopeEndedError {
    return new ScopeEndedError({
      scope: this.scope.describe(),
      resource: this.resource,
      takenAt: this.takenAt?.toString(),
    })
  }

  refusal(): ReqscopeError | undefined {
    if (this.scope.state === 'open') return this.scope.cancelReason ?? this.scope.lockRefusal
    if (this.scope.state === 'ending' && this.scope.isCleaningUp(currentContext())) return this.scope.lockRefusal
    return this.endedError()
  }

  warn(facts: object, message: string): void {
    this.scope.log.warn({ resource: this.resource, ...facts }, message)
  }

  settled(lease: Lease): void {
    if (this.#pool.waiting > 0 && lease === this.#sticky) {
      const connection = lease.yieldIfIdle()
      if (connection !== undefined) this.#pool.giveBack(connection)
    }
  }

  yielded(lease: Lease): void {
    this.#forget(lease)
  }

  async #executeOnSticky<Result>(statement: Statement<Result>): Promise<Result> {
    for (;;) {
      // A lost connection is replaced, unless it had session state that the scope counts on.
      if (this.#sticky?.connection.isGone && !this.#sticky.hasSessionState) this.#forget(this.#sticky)
      const lease = this.#sticky ?? (await (this.#acquiring ?? this.#acquireSticky()))
      if (lease.isCancelling) await lease.whenReady()
      if (lease.hold === undefined || lease.connection.isGone) {
        try {
          this.assertUsable() // it may have ended while it waited
        } catch (error) {
          lease.unreserve()
          this.settled(lease)
          throw error
        }
        if (lease !== this.#sticky && !lease.connection.isGone) continue // it was taken over or has yielded meanwhile
        return lease.execute(statement)
      }
      await this.whenFree(
        lease,
        (hold) => hold !== undefined && lease === this.#sticky,
        () => {},
      )
    }
  }

  #acquireSticky(acquired = this.#pool.acquire(this)): Promise<Lease> {
    this.#acquiring = Promise.resolve(this.oneMore(acquired)).then(
      (lease) => {
        this.#acquiring = undefined
        this.#sticky = lease
        return lease
      },
      (error: unknown) => {
        this.#acquiring = undefined
        throw error
      },
    )
    return this.#acquiring
  }

  /** Whoever stopped waiting still owns the late arrival: it goes straight back. */
  #accept(connection: Connection): Lease {
    const lease = this.#grant(connection)
    const refusal = this.refusal()
    if (refusal === undefined) return lease
    lease.unreserve()
    void this.giveBack(lease)
    throw refusal
  }

  #grant(connection: Connection): Lease {
    const lease = new Lease(connection, this, this.takenAt)
    this.heldBefore = true
    this.#all.push(lease)
    this.#pool.record(lease)
    return lease
  }

  #forget(lease: Lease): void {
    if (lease === this.#sticky) this.#sticky = undefined
    const index = this.#all.indexOf(lease)
    if (index < 0) return
    this.#all.splice(index, 1)
    this.#pool.strike(lease)
    lease.returned()
  }
}
