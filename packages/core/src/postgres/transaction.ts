import { TransactionEndedError } from '../errors.ts'
import type { AcquisitionSite } from '../scope/acquisition-site.ts'
import type { TransactionBond } from '../scope/locker.ts'
import type { TransactionOptions } from '../scope/resource.ts'
import { cursorIsOpen, Lease } from './lease.ts'
import { Level } from './level.ts'
import type { Statement } from './statement.ts'
import { beginOf } from './transaction-options.ts'

/** What a transaction needs of the session it belongs to. */
export interface TransactionHost {
  readonly scope: {
    readonly id: string
    readonly kind: string
    readonly name: string
    /** @internal */
    readonly cancelReason: Error | undefined
    readonly state: 'open' | 'ending' | 'ended'
  }
  /** A lease of the transaction's own, for as long as it lasts; at once where one is free. */
  leaseForTransaction(transaction: Transaction): Lease | Promise<Lease>
  transactionEnded(transaction: Transaction, lease: Lease | undefined): void | Promise<void>
  /** The error that statements get when their scope has ended or was cancelled, if it has. */
  refusal(): Error | undefined
  /** Calls `listener` when the scope is cancelled, until what it returns is called. */
  onCancel(listener: () => void): () => void
  warn(facts: object, message: string): void
}

type State =
  | { readonly tag: 'open' }
  | { readonly tag: 'ending' }
  | { readonly tag: 'ended'; readonly how: 'committed' | 'rolled back' }

/**
 * One outermost transaction. It takes a connection with its first statement, not before; BEGIN travels with that
 * statement. It ends exactly once, and whatever is used of it afterwards throws.
 */
export class Transaction {
  readonly root: Level
  readonly options: TransactionOptions
  readonly site: AcquisitionSite | undefined
  /** The pinned lease it has to run on, inside `pin`. */
  readonly home: Lease | undefined
  readonly #host: TransactionHost
  #state: State = { tag: 'open' }
  #lease: Lease | undefined
  #starting: Promise<Lease> | undefined
  /** The innermost level that is open. */
  #top: Level
  #rollbackOnly: { readonly cause: unknown } | undefined
  #failure: { readonly cause: unknown } | undefined
  #savepoints = 0
  #onChange: (() => void)[] = []
  #bonds: TransactionBond[] | undefined

  constructor(
    host: TransactionHost,
    options: TransactionOptions,
    site: AcquisitionSite | undefined,
    home: Lease | undefined,
  ) {
    this.#host = host
    this.home = home
    this.options = options
    this.site = site
    this.root = new Level(this, undefined)
    this.#top = this.root
  }

  get state(): 'open' | 'ending' | 'ended' {
    return this.#state.tag
  }

  get lease(): Lease | undefined {
    return this.#lease
  }

  /** What failed in it first; a serialization failure is known by its code. */
  get failure(): unknown {
    return this.#failure?.cause
  }

  /** Runs a statement at `level`, in its turn. */
  execute<Result>(statement: Statement<Result>, level: Level): Promise<Result> {
    if (this.#top !== level || this.#state.tag !== 'open') return this.#executeInTurn(statement, level)
    const lease = this.#started()
    if (!(lease instanceof Lease) || !lease.isReady) return this.#executeInTurn(statement, level)
    return this.#run(statement, level, lease)
  }

  /** Hands the transaction's lease to `use` when it is the turn of `level`: for a cursor or a stream, which occupy it. */
  withLease<Result>(level: Level, use: (lease: Lease) => Result): Promise<Awaited<Result>> {
    return this.#inTurn(level, use)
  }

  /** Ties something to its end. */
  tie(bond: TransactionBond): void {
    this.#bonds ??= []
    this.#bonds.push(bond)
  }

  /** Told what failed in it outside of `execute`: in a cursor, a stream. */
  noteFailure(error: unknown): void {
    this.#failure ??= { cause: error }
  }

  /** Its scope was cancelled: whoever waits in it is refused. */
  cancelled(): void {
    this.#changed()
  }

  async #executeInTurn<Result>(statement: Statement<Result>, level: Level): Promise<Result> {
    level.pending++
    try {
      return await this.#inTurn(level, (lease) => this.#run(statement, level, lease))
    } finally {
      level.pending--
      this.#changed()
    }
  }

  #run<Result>(statement: Statement<Result>, level: Level, lease: Lease): Promise<Result> {
    level.pending++
    return lease.execute(statement).then(
      (result) => {
        level.pending--
        this.#changed()
        return result
      },
      (error: unknown) => {
        level.pending--
        this.#failure ??= { cause: error }
        this.#changed()
        throw error
      },
    )
  }

  /** Runs `fn` in a savepoint of `level`; what it throws undoes what was done since. */
  async savepoint<Result>(level: Level, fn: (inner: Level) => Promise<Result>): Promise<Result> {
    level.pending++
    let lease: Lease
    const inner = new Level(this, level)
    try {
      lease = await this.#inTurn(level, (granted) => {
        if (granted.hold === 'cursor') throw cursorIsOpen('the transaction')
        this.#top = inner
        return granted
      })
    } catch (error) {
      level.pending--
      this.#changed()
      throw error
    }
    const name = `reqscope_${++this.#savepoints}`
    const failureBefore = this.#failure
    const rollbackOnlyBefore = this.#rollbackOnly
    try {
      // Not waited for: should it fail, the transaction is aborted and nothing behind it can succeed.
      lease.control(`savepoint ${name}`).catch((error: unknown) => {
        this.#failure ??= { cause: error }
      })
      const result = await fn(inner)
      await this.#quiet(inner)
      this.#refuseIfEnded(inner)
      if (this.#failure !== undefined && this.#failure !== failureBefore) {
        throw this.#endedError('aborted', this.#failure.cause)
      }
      if (lease.hold === 'cursor') throw this.#endedError('aborted', cursorIsOpen('the transaction'))
      if (lease.isCancelling) await lease.whenReady()
      this.#refuseIfEnded(inner)
      await lease.control(`release savepoint ${name}`)
      level.afterCommit.push(...inner.afterCommit)
      if (inner.onUndone !== undefined) level.onUndone = [...(level.onUndone ?? []), ...inner.onUndone]
      return result
    } catch (cause) {
      inner.undone = true
      for (const listener of inner.onUndone ?? []) listener()
      await this.#quiet(inner)
      if (lease.hold === 'cursor') lease.connection.discard('a savepoint ended while a cursor or stream was open in it')
      if (lease.isCancelling) await lease.whenReady()
      if (this.#state.tag === 'open' && !lease.connection.isGone) {
        await lease.control(`rollback to savepoint ${name}; release savepoint ${name}`).then(
          () => {
            this.#failure = failureBefore
            this.#rollbackOnly = rollbackOnlyBefore // what had joined in it is undone with it
          },
          () => {}, // the connection failed, or the transaction did: its end tells
        )
      }
      throw cause
    } finally {
      inner.ended = true
      this.#top = level
      level.pending--
      this.#changed()
    }
  }

  /** Joins: an error that leaves `fn` makes the whole transaction rollback-only, whoever catches it. */
  async join<Result>(level: Level, fn: () => Result | Promise<Result>): Promise<Result> {
    this.#refuseIfEnded(level)
    level.pending++
    try {
      return await fn()
    } catch (cause) {
      this.#rollbackOnly ??= { cause }
      throw cause
    } finally {
      level.pending--
      this.#changed()
    }
  }

  /**
   * Commits, once what was begun inside has settled.
   *
   * @throws TransactionEndedError when it could only be rolled back.
   * @throws ConnectionLostError with `outcome: 'unknown'` when the connection was lost during COMMIT.
   */
  async commit(): Promise<void> {
    if (this.root.pending > 0) await this.#quiet(this.root)
    if (this.#state.tag !== 'open') {
      throw this.#endedError(this.#host.scope.state === 'open' ? 'used-after-end' : 'scope-ended')
    }
    const obstacle = this.#obstacle()
    if (obstacle !== undefined) {
      await this.rollback()
      throw obstacle
    }
    this.#state = { tag: 'ending' }
    const lease = this.#lease
    try {
      if (lease !== undefined) {
        if (lease.isCancelling) await lease.whenReady()
        const tag = await lease.control('commit', 'unknown')
        if (tag !== 'COMMIT') {
          await this.#end('rolled back')
          throw this.#endedError('aborted', this.#failure?.cause)
        }
      }
    } catch (error) {
      // A COMMIT that is refused, by a deferred constraint for one, has rolled back.
      await this.#end('rolled back')
      throw error
    }
    const ending = this.#end('committed')
    if (ending !== undefined) await ending
    if (this.root.afterCommit.length > 0) await this.#runAfterCommit()
  }

  /** Rolls back; never throws: what made it necessary is what its caller is told. */
  async rollback(): Promise<void> {
    if (this.#state.tag !== 'open') return
    this.#state = { tag: 'ending' }
    this.#changed()
    const lease = this.#lease ?? (await this.#starting?.catch(() => undefined))
    if (lease?.hold === 'cursor')
      lease.connection.discard('its transaction ended while a cursor or stream was open in it')
    if (lease !== undefined && !lease.connection.isGone) {
      try {
        await lease.whenReady()
        await lease.control('rollback')
      } catch {
        lease.connection.discard('its transaction could not be rolled back')
      }
    }
    await this.#end('rolled back')
  }

  /** The scope has ended and the function has not: cancels what runs, and rolls back. */
  async abandon(): Promise<void> {
    if (this.#state.tag === 'ended') return
    if (this.#lease !== undefined && !this.#lease.isIdle) await this.#lease.cancelInFlight()
    await this.rollback()
  }

  #obstacle(): Error | undefined {
    const refusal = this.#host.refusal()
    if (refusal !== undefined) return refusal
    if (this.#rollbackOnly !== undefined) return this.#endedError('rollback-only', this.#rollbackOnly.cause)
    if (this.#lease?.hold === 'cursor') return this.#endedError('aborted', cursorIsOpen('the transaction'))
    if (this.#lease?.connection.isGone) return this.#lease.failure(this.#failure?.cause ?? new Error('lost')) as Error
    for (const bond of this.#bonds ?? []) {
      const obstacle = bond.obstacle()
      if (obstacle !== undefined) return obstacle
    }
    return undefined
  }

  /** Calls `use` once `level` is the innermost one that is open; right then, so that no sibling can be quicker. */
  async #inTurn<Result>(level: Level, use: (lease: Lease) => Result): Promise<Awaited<Result>> {
    for (;;) {
      this.#refuseIfEnded(level)
      if (this.#top !== level) {
        await new Promise<void>((resolve) => this.#onChange.push(resolve))
        continue
      }
      const lease = await this.#started()
      if (lease.isCancelling) await lease.whenReady()
      this.#refuseIfEnded(level)
      if (this.#top === level) return await use(lease)
    }
  }

  /** Waits until nothing that was begun at `level` is pending: an insert nobody awaited still belongs to it. */
  async #quiet(level: Level): Promise<void> {
    while (level.pending > 0 && this.#state.tag === 'open' && this.#host.refusal() === undefined) {
      await new Promise<void>((resolve) => this.#onChange.push(resolve))
    }
  }

  #changed(): void {
    if (this.#onChange.length === 0) return
    for (const resolve of this.#onChange.splice(0)) resolve()
  }

  /** The lease, with BEGIN sent on it, and answered where it can fail. */
  #started(): Lease | Promise<Lease> {
    const started = this.#starting ?? this.#lease
    if (started !== undefined) return started
    const lease = this.#host.leaseForTransaction(this)
    const begun = lease instanceof Lease ? this.#begin(lease) : lease.then((granted) => this.#begin(granted))
    if (begun instanceof Lease) return begun
    const done = () => {
      this.#starting = undefined
    }
    begun.then(done, done)
    this.#starting = begun
    return begun
  }

  #begin(lease: Lease): Lease | Promise<Lease> {
    this.#lease = lease
    const { text, canFail } = beginOf(this.options)
    const beginning = lease.begin(text)
    if (!canFail) return lease
    return beginning.then((failure) => {
      if (failure !== undefined) throw failure
      return lease
    })
  }

  #end(how: 'committed' | 'rolled back'): void | Promise<void> {
    if (this.#state.tag === 'ended') return
    this.#state = { tag: 'ended', how }
    for (let level: Level | undefined = this.#top; level !== undefined; level = level.parent) {
      level.ended = true
      level.undone = how === 'rolled back'
    }
    this.#changed()
    for (const bond of this.#bonds ?? []) bond.ended()
    return this.#host.transactionEnded(this, this.#lease)
  }

  /** Waits for them no longer than for the scope: what is committed can be told although one of them hangs. */
  #runAfterCommit(): Promise<void> {
    return new Promise((resolve) => {
      const stopListening = this.#host.onCancel(resolve)
      if (this.#host.scope.cancelReason !== undefined) resolve()
      void this.#afterCommitInTurn().then(() => {
        stopListening()
        resolve()
      })
    })
  }

  async #afterCommitInTurn(): Promise<void> {
    for (const fn of this.root.afterCommit.splice(0)) {
      try {
        await fn()
      } catch (error) {
        this.#host.warn({ err: error }, 'an afterCommit function failed; the transaction is committed')
      }
    }
  }

  #refuseIfEnded(level: Level): void {
    if (this.#state.tag !== 'open' || level.ended) throw this.#endedError('used-after-end')
    const refusal = this.#host.refusal()
    if (refusal !== undefined) throw refusal
  }

  #endedError(reason: TransactionEndedError['reason'], cause?: unknown): TransactionEndedError {
    return new TransactionEndedError({
      scope: this.#host.scope,
      reason,
      how: this.#state.tag === 'ended' ? this.#state.how : undefined,
      startedAt: this.site?.toString(),
      cause,
    })
  }
}
