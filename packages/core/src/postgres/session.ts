import { type ReqscopeError, ScopeEndedError, SharedConnectionError } from '../errors.ts'
import { publish } from '../events.ts'
import type { AcquisitionSite } from '../scope/acquisition-site.ts'
import { type Context, currentContext, findInContext, outsideEveryScope, runWithin } from '../scope/current.ts'
import type { Ledger } from '../scope/ledger.ts'
import { assertUsable } from '../scope/ownership.ts'
import type { TransactionOptions } from '../scope/resource.ts'
import type { Scope } from '../scope/scope.ts'
import { Connection } from './connection.ts'
import { cursorIsOpen, type Hold, Lease, type LeaseHolder } from './lease.ts'
import type { Borrower, Pool } from './pool.ts'
import type { Statement } from './statement.ts'
import {
  beforeRetry,
  checkTransactionOptions,
  isRetryable,
  type Level,
  refuseInnerOptions,
  Transaction,
  type TransactionHost,
} from './transaction.ts'

/** A connection that `pin` keeps for its function. */
class Pin {
  readonly lease: Lease
  ended = false
  constructor(lease: Lease) {
    this.lease = lease
  }
}

/** A lease that a cursor or a stream occupies. */
export interface Occupied {
  readonly lease: Lease
  /** Whether it serves a transaction or a pin besides. */
  readonly isShared: boolean
  /** Told what failed, for the transaction it happened in. */
  failed(error: unknown): void
  /** @param clean whether it was read to its end and the connection is ready for more. */
  free(clean: boolean): Promise<void>
}

/** Stands where a transaction would: code inside runs outside of any. */
const NO_TRANSACTION = Symbol('outside of transactions')

type Frame = Level | Pin | typeof NO_TRANSACTION | undefined

/**
 * All that one scope does with one Postgres resource: its leases and its transactions. Statements that are in no
 * transaction share one sticky lease, which the scope keeps while nobody else waits for it.
 */
export class Session implements LeaseHolder, Borrower, TransactionHost {
  readonly scope: Scope
  readonly resource: string
  heldBefore = false
  waits = 0

  readonly #pool: Pool
  readonly #ledger: Ledger
  readonly #takenAt: AcquisitionSite | undefined
  readonly #leases: Lease[] = []
  #sticky: Lease | undefined
  #acquiring: Promise<Lease> | undefined
  #transactions: Set<Transaction> | undefined
  #onFree: (() => void)[] | undefined

  constructor(scope: Scope, resource: string, pool: Pool, ledger: Ledger) {
    this.scope = scope
    this.resource = resource
    this.#pool = pool
    this.#ledger = ledger
    this.#takenAt = pool.sites.record(scope.name, scope.handleOf)
  }

  get holds(): number {
    return this.#leases.length
  }

  get leakThresholdMs(): number {
    return this.#pool.config.leakThresholdMs
  }

  get statementTimeoutMs(): number {
    return this.#pool.config.statementTimeoutMs
  }

  get pool(): Pool {
    return this.#pool
  }

  /** @throws what `assertUsable` throws. */
  assertUsable(): void {
    assertUsable(this.scope, this.resource, this.#takenAt)
  }

  /** Runs a statement where it belongs: in the transaction around the code that asks, or on the scope's own lease. */
  execute<Result>(statement: Statement<Result>, at: Level | undefined): Promise<Result> {
    try {
      this.assertUsable()
      const frame = this.#frame(at)
      if (frame === undefined || frame === NO_TRANSACTION) {
        const lease = this.#sticky
        if (lease?.isReady && lease.hold === undefined) return lease.execute(statement)
        if (lease === undefined && this.#acquiring === undefined) {
          const acquired = this.#pool.acquire(this)
          if (acquired instanceof Connection) return (this.#sticky = this.#grant(acquired)).execute(statement)
          void this.#acquireSticky(acquired).catch(() => {}) // whoever awaits the statement is told
        }
        return this.#executeOnSticky(statement)
      }
      if (frame instanceof Pin) return this.#withPinned(frame, (lease) => lease.execute(statement))
      return frame.transaction.execute(statement, frame)
    } catch (error) {
      return Promise.reject(error)
    }
  }

  /**
   * Takes a lease for something that occupies its connection for longer than a statement: a cursor, a COPY stream. In a
   * transaction it is the transaction's, else one more.
   */
  async occupy(at: Level | undefined): Promise<Occupied> {
    this.assertUsable()
    const frame = this.#frame(at)
    if (frame !== undefined && frame !== NO_TRANSACTION) {
      const take = (lease: Lease) => this.#occupied(lease, isLevel(frame) ? frame.transaction : undefined)
      return frame instanceof Pin ? this.#withPinned(frame, take) : frame.transaction.withLease(frame, take)
    }
    const lease = await this.#lease()
    lease.unreserve()
    lease.holdFor('cursor')
    return {
      lease,
      isShared: false,
      failed: () => {},
      free: async (clean) => {
        if (clean) lease.unhold()
        await this.#giveBack(lease)
      },
    }
  }

  #occupied(lease: Lease, transaction: Transaction | undefined): Occupied {
    const before = lease.hold
    if (before === 'cursor') throw cursorIsOpen(this.resource)
    lease.holdFor('cursor')
    return {
      lease,
      isShared: true,
      failed: (error) => transaction?.noteFailure(error),
      free: async (clean) => {
        if (clean) lease.unhold(before)
        else lease.connection.discard('a cursor or stream on it was not read to its end')
      },
    }
  }

  /** Runs `fn` with one connection kept for it; it is reset afterwards, whatever was done to it out of sight. */
  async pin<Result>(fn: () => Result | Promise<Result>): Promise<Result> {
    this.assertUsable()
    const frame = this.#frame(undefined)
    if (frame !== undefined && frame !== NO_TRANSACTION) {
      if (frame instanceof Pin) {
        if (frame.ended) throw this.#pinIsOver()
        return fn()
      }
      await frame.transaction.withLease(frame, (lease) => lease.noteSessionState())
      return fn()
    }
    const taken = this.#takeOver('pinned')
    const lease = taken instanceof Lease ? taken : await taken
    lease.unreserve()
    lease.noteSessionState()
    const pin = new Pin(lease)
    try {
      return await runWithin(this.#context(), this, pin, async () => fn())
    } finally {
      pin.ended = true
      await this.#unpin(lease)
    }
  }

  async #unpin(lease: Lease): Promise<void> {
    const left = [...(this.#transactions ?? [])].filter((transaction) => transaction.home === lease)
    if (left.length > 0) this.#reportReclaimed(lease)
    await Promise.all(left.map((transaction) => transaction.abandon()))
    if (!lease.isIdle && !lease.connection.isGone) await lease.cancelInFlight()
    if (lease.hold === 'pinned') lease.unhold()
    this.#freed()
    // One that had session state before goes on having it until the scope ends.
    if (lease !== this.#sticky || lease.condition === 'doubtful') await this.#giveBack(lease)
  }

  /** See `scope.transaction`. */
  async transaction<Result>(options: TransactionOptions, fn: () => Result | Promise<Result>): Promise<Result> {
    const site = this.#site(this.transaction)
    checkTransactionOptions(options)
    this.assertUsable()
    const frame = this.#frame(undefined)
    const inside = isLevel(frame) ? frame : undefined
    const propagation = options.propagation ?? 'required'
    // A query that `fn` returns is sent when it is awaited, so that has to happen inside, here and below.
    if (propagation === 'notSupported') {
      // Where there is no transaction there is nothing to step out of, least of all a pin.
      return inside === undefined ? fn() : runWithin(this.#context(), this, NO_TRANSACTION, async () => fn())
    }
    if (inside === undefined || propagation === 'requiresNew') return this.outermost(options, () => fn(), site)
    refuseInnerOptions(options, inside.transaction.options)
    if (propagation === 'required') return inside.transaction.join(inside, fn)
    return inside.transaction.savepoint(inside, (inner) => this.#runAt(inner, async () => fn()))
  }

  /** As drizzle's users expect it: inside a transaction it is a savepoint. `fn` is told its level. */
  async drizzleTransaction<Result>(
    options: TransactionOptions,
    at: Level | undefined,
    fn: (level: Level) => Result | Promise<Result>,
  ): Promise<Result> {
    const site = this.#site(this.drizzleTransaction)
    checkTransactionOptions(options)
    this.assertUsable()
    const frame = this.#frame(at)
    if (!isLevel(frame)) return this.outermost(options, fn, site)
    refuseInnerOptions(options, frame.transaction.options)
    return frame.transaction.savepoint(frame, (inner) => this.#runAt(inner, async () => fn(inner)))
  }

  async outermost<Result>(
    options: TransactionOptions,
    fn: (level: Level) => Result | Promise<Result>,
    site: AcquisitionSite | undefined,
  ): Promise<Result> {
    for (let attempt = 0; ; attempt++) {
      const transaction = this.open(options, site)
      try {
        const result = await this.#runAt(transaction.root, async () => fn(transaction.root))
        await transaction.commit()
        return result
      } catch (error) {
        await transaction.rollback()
        const again = attempt < (options.retries ?? 0) && this.refusal() === undefined
        if (!again || !(isRetryable(error) || isRetryable(transaction.failure))) throw error
        await beforeRetry(attempt, error, this.scope)
      }
    }
  }

  /** Begins an outermost transaction; whoever asks must end it. It holds nothing before its first statement. */
  open(options: TransactionOptions, site = this.#site(this.open)): Transaction {
    const frame = this.#frame(undefined)
    if (frame instanceof Pin && frame.ended) throw this.#pinIsOver()
    const transaction = new Transaction(this, options, site, frame instanceof Pin ? frame.lease : undefined)
    this.#transactions ??= new Set()
    this.#transactions.add(transaction)
    return transaction
  }

  runIn<Result>(transaction: Transaction, fn: () => Result): Result {
    return runWithin(this.#context(), this, transaction.root, fn)
  }

  afterCommit(fn: () => unknown): boolean {
    this.assertUsable()
    const frame = this.#frame(undefined)
    if (!isLevel(frame)) return false
    const level = frame.keptIn
    if (level.undone) return true // it never runs
    if (level.ended) return false // it has committed
    level.afterCommit.push(fn)
    return true
  }

  /** Cancels what runs and refuses who waits. */
  cancel(reason: ReqscopeError): void {
    this.#pool.refuse(this, reason)
    for (const lease of this.#leases) {
      if (!lease.isIdle) void lease.cancelInFlight()
      else if (lease.connection.occupant !== undefined) lease.connection.discard(reason.message)
    }
    this.#freed()
    for (const transaction of this.#transactions ?? []) transaction.cancelled()
  }

  /** Gives everything back; returns nothing where that could be done at once. */
  release(): Promise<void> | undefined {
    if (this.waits > 0) this.#pool.refuse(this, this.#endedError())
    const lease = this.#sticky
    if (this.#transactions === undefined && (lease === undefined ? this.#leases.length === 0 : this.#leases.length === 1 && lease.isIdle && lease.hold === undefined)) {
      return lease === undefined ? undefined : this.#giveBack(lease)
    }
    return this.#reclaim()
  }

  async #reclaim(): Promise<void> {
    const ended = this.#endedError()
    this.#pool.refuse(this, ended)
    for (const lease of this.#leases) lease.reclaimedBy = ended
    this.#freed()
    // All at once: one of them may wait for what another one holds.
    await Promise.all(
      [...(this.#transactions ?? [])].map((transaction) => {
        this.#reportReclaimed(transaction.lease)
        return transaction.abandon()
      }),
    )
    for (const lease of [...this.#leases]) {
      if (!lease.isIdle || lease.hold !== undefined) this.#reportReclaimed(lease)
      if (!lease.isIdle) await lease.cancelInFlight()
      await this.#giveBack(lease)
    }
  }

  #reportReclaimed(reclaimed: Lease | undefined): void {
    if (reclaimed === undefined || this.scope.cancelReason !== undefined) return
    const lease = reclaimed.describe()
    publish('reqscope:lease:reclaimed', () => ({ lease }))
    this.warn({ lease }, 'a scope ended while its connection was still in use; it was taken back')
  }

  // What leases and transactions ask for.

  settled(lease: Lease): void {
    if (this.#pool.waiting > 0 && lease === this.#sticky) {
      const connection = lease.yieldIfIdle()
      if (connection !== undefined) this.#pool.giveBack(connection)
    }
  }

  yielded(lease: Lease): void {
    this.#forget(lease)
  }

  leaseForTransaction(transaction: Transaction): Lease | Promise<Lease> {
    const { home } = transaction
    const lease = home === undefined ? this.#takeOver('transaction') : this.#takeHome(home)
    return lease instanceof Lease
      ? this.#lend(lease, transaction)
      : lease.then((granted) => this.#lend(granted, transaction))
  }

  /** The pinned lease, for a transaction inside `pin`. */
  #takeHome(home: Lease): Promise<Lease> {
    return this.#whenFree(home, (hold) => hold === 'transaction', () => {
      if (home.hold === 'cursor') throw cursorIsOpen(this.resource)
      home.holdFor('transaction')
      return home
    })
  }

  #lend(lease: Lease, transaction: Transaction): Lease {
    const refusal = this.refusal()
    if (refusal !== undefined || transaction.state !== 'open') {
      lease.unreserve()
      lease.unhold(lease === transaction.home ? 'pinned' : undefined)
      this.#freed()
      if (lease !== transaction.home) void this.#keep(lease)
      throw refusal ?? this.#endedError()
    }
    lease.site = transaction.site ?? lease.site
    lease.holdFor('transaction')
    return lease
  }

  transactionEnded(transaction: Transaction, lease: Lease | undefined): void | Promise<void> {
    this.#transactions?.delete(transaction)
    if (this.#transactions?.size === 0) this.#transactions = undefined
    if (lease === undefined || !this.#leases.includes(lease)) return
    lease.unhold(lease === transaction.home ? 'pinned' : undefined)
    this.#freed()
    if (lease === transaction.home) return
    if (lease.connection.isGone || lease.condition === 'doubtful') return this.#giveBack(lease)
    this.#keep(lease)
  }

  refusal(): ReqscopeError | undefined {
    if (this.scope.state === 'open') return this.scope.cancelReason
    if (this.scope.state === 'ending' && this.scope.isCleaningUp(currentContext())) return undefined
    return this.#endedError()
  }

  warn(facts: object, message: string): void {
    this.scope.log.warn({ resource: this.resource, ...facts }, message)
  }

  // The sticky lease.

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
      await this.#whenFree(lease, (hold) => hold !== undefined && lease === this.#sticky, () => {})
    }
  }

  /**
   * Calls `use` as soon as nothing that is `busy` holds the lease; right then, so that nobody can be quicker. A lease with
   * session state or a pinned one serves one transaction at a time: no other connection has that state.
   */
  async #whenFree<Result>(lease: Lease, busy: (hold: Hold | undefined) => boolean, use: () => Result): Promise<Awaited<Result>> {
    const startedAt = performance.now()
    let late = false
    let timer: NodeJS.Timeout | undefined
    const expire = () => {
      late = true
      this.#freed()
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

  #freed(): void {
    for (const resolve of this.#onFree?.splice(0) ?? []) resolve()
  }

  #acquireSticky(acquired = this.#pool.acquire(this)): Promise<Lease> {
    this.#acquiring = Promise.resolve(this.#lease(acquired)).then(
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

  /** The sticky lease if it is free, else one more. With session state on it, nothing else will do. */
  #takeOver(hold: Hold): Lease | Promise<Lease> {
    const sticky = this.#sticky
    if (sticky === undefined || sticky.connection.isGone) return this.#oneMore(hold)
    if (sticky.hasSessionState) return this.#takeOverWithState(sticky, hold)
    if (!sticky.isIdle) return this.#oneMore(hold)
    this.#sticky = undefined
    sticky.holdFor(hold)
    return sticky
  }

  #oneMore(hold: Hold): Lease | Promise<Lease> {
    const held = (lease: Lease) => {
      lease.holdFor(hold)
      return lease
    }
    const lease = this.#lease()
    return lease instanceof Lease ? held(lease) : lease.then(held)
  }

  async #takeOverWithState(sticky: Lease, hold: Hold): Promise<Lease> {
    const lease = await this.#whenFree(
      sticky,
      (held) => held !== undefined && this.#sticky === sticky,
      () => {
        if (this.#sticky !== sticky || sticky.connection.isGone) return undefined
        sticky.holdFor(hold)
        return sticky
      },
    )
    if (lease === undefined) return this.#takeOver(hold)
    await lease.whenSettled()
    return lease
  }

  /** One more lease, at once where a connection is free. */
  #lease(acquired = this.#pool.acquire(this)): Lease | Promise<Lease> {
    return acquired instanceof Connection ? this.#grant(acquired) : acquired.then((late) => this.#accept(late))
  }

  /** Whoever stopped waiting still owns the late arrival: it goes straight back. */
  #accept(connection: Connection): Lease {
    const lease = this.#grant(connection)
    const refusal = this.refusal()
    if (refusal === undefined) return lease
    lease.unreserve()
    void this.#giveBack(lease)
    throw refusal
  }

  #grant(connection: Connection): Lease {
    const lease = new Lease(connection, this, this.#takenAt)
    this.heldBefore = true
    this.#leases.push(lease)
    this.#pool.leases.add(lease)
    this.#ledger.record(lease)
    return lease
  }

  /** Keeps a lease that is free again as the sticky one, or gives it back where there is one. */
  #keep(lease: Lease): void | Promise<void> {
    if (this.#sticky !== undefined && this.#sticky !== lease) return this.#giveBack(lease)
    this.#sticky = lease
    this.settled(lease)
  }

  #giveBack(lease: Lease): Promise<void> | undefined {
    if (!this.#leases.includes(lease) || lease.returning !== undefined) return lease.returning
    if (lease.isCancelling) {
      // A cancel request under way would hit whoever has the connection next.
      lease.returning = lease.whenReady().then(() => {
        lease.returning = undefined
        return this.#giveBack(lease)
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

  #forget(lease: Lease): void {
    if (lease === this.#sticky) this.#sticky = undefined
    const index = this.#leases.indexOf(lease)
    if (index < 0) return
    this.#leases.splice(index, 1)
    this.#pool.leases.delete(lease)
    this.#ledger.strike(lease)
    lease.returned()
  }

  // Where code runs.

  #context(): Context {
    const context = currentContext()
    return context?.scope === this.scope ? context : this.scope
  }

  /** The innermost of what is around the code, and `at` where that is further in: a transaction handle knows its level. */
  #frame(at: Level | undefined): Frame {
    const context = currentContext()
    const around = context?.scope === this.scope ? (findInContext(context, this) as Frame) : undefined
    if (at === undefined) return around
    return isLevel(around) && around.transaction === at.transaction && around.isWithin(at) ? around : at
  }

  /** Calls `use` with the pinned lease once no transaction of the pinned function runs on it. */
  #withPinned<Result>(pin: Pin, use: (lease: Lease) => Result): Promise<Awaited<Result>> {
    return this.#whenFree(pin.lease, (hold) => hold === 'transaction', () => {
      if (pin.ended) throw this.#pinIsOver()
      return use(pin.lease)
    })
  }

  #runAt<Result>(level: Level, fn: () => Result): Result {
    return runWithin(this.#context(), this, level, fn)
  }

  #site(below: (...args: never[]) => unknown): AcquisitionSite | undefined {
    return this.#pool.sites.record(`${this.scope.name} transaction`, below)
  }

  #pinIsOver(): SharedConnectionError {
    return new SharedConnectionError({
      resource: this.resource,
      operation: 'A statement of a pin(…) that is over',
      instead: 'its connection is in other hands. Await all work before the function of pin returns.',
    })
  }

  #endedError(): ScopeEndedError {
    return new ScopeEndedError({ scope: this.scope.describe(), resource: this.resource, takenAt: this.#takenAt?.toString() })
  }
}

function isLevel(frame: Frame): frame is Level {
  return frame !== undefined && frame !== NO_TRANSACTION && !(frame instanceof Pin)
}
