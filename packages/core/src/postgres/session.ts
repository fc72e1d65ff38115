import { type ReqscopeError, SharedConnectionError } from '../errors.ts'
import type { AcquisitionSite } from '../scope/acquisition-site.ts'
import { type Context, currentContext, findInContext, runWithin } from '../scope/current.ts'
import type { TransactionOptions } from '../scope/resource.ts'
import type { Scope } from '../scope/scope.ts'
import { cursorIsOpen, Lease } from './lease.ts'
import type { Level } from './level.ts'
import type { Pool } from './pool.ts'
import { beforeRetry, isRetryable } from './retry.ts'
import { ScopeLeases } from './scope-leases.ts'
import type { Statement } from './statement.ts'
import type { StatementLog } from './statement-log.ts'
import { Transaction, type TransactionHost } from './transaction.ts'
import { checkTransactionOptions, refuseInnerOptions } from './transaction-options.ts'

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
 * All that one scope does with one Postgres resource: sends each statement where the code that asks for it is, in a
 * transaction, in a pin or in neither, and keeps the transactions.
 */
export class Session implements TransactionHost {
  readonly scope: Scope
  readonly resource: string
  readonly pool: Pool
  readonly #leases: ScopeLeases
  #transactions: Set<Transaction> | undefined
  #onCancel: Set<() => void> | undefined

  constructor(scope: Scope, resource: string, pool: Pool) {
    this.scope = scope
    this.resource = resource
    this.pool = pool
    this.#leases = new ScopeLeases(scope, resource, pool)
  }

  /** Where statements are counted. */
  get statements(): StatementLog | undefined {
    return this.#leases.statements
  }

  get summary(): object {
    return { ...this.statements?.summary, waitedMs: Math.round(this.#leases.waitedMs * 100) / 100 }
  }

  /** @throws what `assertUsable` throws. */
  assertUsable(): void {
    this.#leases.assertUsable()
  }

  /** Runs a statement where it belongs: in the transaction around the code that asks, or on the scope's own lease. */
  execute<Result>(statement: Statement<Result>, at: Level | undefined): Promise<Result> {
    try {
      this.assertUsable()
      const refusal = statement.isOurs ? undefined : this.#leases.statements?.begun(statement.text)
      if (refusal !== undefined) return Promise.reject(refusal)
      const frame = this.#frame(at)
      if (frame === undefined || frame === NO_TRANSACTION) return this.#leases.execute(statement)
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
    const lease = await this.#leases.oneMore()
    lease.unreserve()
    lease.holdFor('cursor')
    return {
      lease,
      isShared: false,
      failed: () => {},
      free: async (clean) => {
        if (clean) lease.unhold()
        await this.#leases.giveBack(lease)
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
    const taken = this.#leases.takeOver('pinned')
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
    if (left.length > 0) this.#leases.reportReclaimed(lease)
    await Promise.all(left.map((transaction) => transaction.abandon()))
    if (!lease.isIdle && !lease.connection.isGone) await lease.cancelInFlight()
    if (lease.hold === 'pinned') lease.unhold()
    this.#leases.freed()
    // One that had session state before goes on having it until the scope ends.
    if (!this.#leases.isSticky(lease) || lease.condition === 'doubtful') await this.#leases.giveBack(lease)
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
  open(options: TransactionOptions, site: AcquisitionSite | undefined): Transaction {
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

  /** The outermost transaction around the code that runs now. */
  get transactionAround(): Transaction | undefined {
    const frame = this.#frame(undefined)
    return isLevel(frame) && frame.transaction.state !== 'ended' ? frame.transaction : undefined
  }

  /** Calls `listener` when the savepoint around the code that runs now is rolled back. */
  whenUndone(listener: () => void): void {
    const frame = this.#frame(undefined)
    if (!isLevel(frame)) return
    frame.onUndone ??= []
    frame.onUndone.push(listener)
  }

  /** Cancels what runs and refuses who waits. */
  cancel(reason: ReqscopeError): void {
    this.#leases.cancel(reason)
    for (const transaction of this.#transactions ?? []) transaction.cancelled()
    for (const listener of this.#onCancel ?? []) listener()
  }

  /** Calls `listener` when the scope is cancelled, until what it returns is called. */
  onCancel(listener: () => void): () => void {
    this.#onCancel ??= new Set()
    this.#onCancel.add(listener)
    return () => void this.#onCancel?.delete(listener)
  }

  /** Gives everything back; returns nothing where that could be done at once. */
  release(): Promise<void> | undefined {
    this.#leases.statements?.ended()
    if (this.#transactions === undefined && this.#leases.isAtRest) return this.#leases.giveBackSticky()
    return this.#reclaim()
  }

  async #reclaim(): Promise<void> {
    this.#leases.end()
    // All at once: one of them may wait for what another one holds.
    await Promise.all(
      [...(this.#transactions ?? [])].map((transaction) => {
        this.#leases.reportReclaimed(transaction.lease)
        return transaction.abandon()
      }),
    )
    await this.#leases.reclaim()
  }

  // What transactions ask for.

  leaseForTransaction(transaction: Transaction): Lease | Promise<Lease> {
    const { home } = transaction
    const lease = home === undefined ? this.#leases.takeOver('transaction') : this.#takeHome(home)
    return lease instanceof Lease
      ? this.#lend(lease, transaction)
      : lease.then((granted) => this.#lend(granted, transaction))
  }

  /** The pinned lease, for a transaction inside `pin`. */
  #takeHome(home: Lease): Promise<Lease> {
    return this.#leases.whenFree(
      home,
      (hold) => hold === 'transaction',
      () => {
        if (home.hold === 'cursor') throw cursorIsOpen(this.resource)
        home.holdFor('transaction')
        return home
      },
    )
  }

  #lend(lease: Lease, transaction: Transaction): Lease {
    const refusal = this.refusal()
    if (refusal !== undefined || transaction.state !== 'open') {
      lease.unreserve()
      lease.unhold(lease === transaction.home ? 'pinned' : undefined)
      this.#leases.freed()
      if (lease !== transaction.home) void this.#leases.keep(lease)
      throw refusal ?? this.#leases.endedError()
    }
    lease.site = transaction.site ?? lease.site
    lease.holdFor('transaction')
    return lease
  }

  transactionEnded(transaction: Transaction, lease: Lease | undefined): void | Promise<void> {
    this.#transactions?.delete(transaction)
    if (this.#transactions?.size === 0) this.#transactions = undefined
    if (lease === undefined || !this.#leases.has(lease)) return
    lease.unhold(lease === transaction.home ? 'pinned' : undefined)
    this.#leases.freed()
    if (lease === transaction.home) return
    if (lease.connection.isGone || lease.condition === 'doubtful') return this.#leases.giveBack(lease)
    this.#leases.keep(lease)
  }

  refusal(): ReqscopeError | undefined {
    return this.#leases.refusal()
  }

  warn(facts: object, message: string): void {
    this.#leases.warn(facts, message)
  }

  // Where code runs.

  /** False once it has committed: an afterCommit function may still run in its context. */
  get isInTransaction(): boolean {
    const frame = this.#frame(undefined)
    return isLevel(frame) && (!frame.keptIn.ended || frame.keptIn.undone)
  }

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
    return this.#leases.whenFree(
      pin.lease,
      (hold) => hold === 'transaction',
      () => {
        if (pin.ended) throw this.#pinIsOver()
        return use(pin.lease)
      },
    )
  }

  #runAt<Result>(level: Level, fn: () => Result): Result {
    return runWithin(this.#context(), this, level, fn)
  }

  #site(below: (...args: never[]) => unknown): AcquisitionSite | undefined {
    return this.pool.sites.record(`${this.scope.name} transaction`, below)
  }

  #pinIsOver(): SharedConnectionError {
    return new SharedConnectionError({
      resource: this.resource,
      operation: 'A statement of a pin(…) that is over',
      instead: 'its connection is in other hands. Await all work before the function of pin returns.',
    })
  }
}

function isLevel(frame: Frame): frame is Level {
  return frame !== undefined && frame !== NO_TRANSACTION && !(frame instanceof Pin)
}
