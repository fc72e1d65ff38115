import {
  DeadlineExceededError,
  InvalidOptionError,
  type RateLimitState,
  type ReqscopeError,
  ScopeAbortedError,
  type ScopeDescription,
} from '../errors.ts'
import { eventChannel } from '../events.ts'
import { type Cleanup, CleanupStack, COMPLETED, type Outcome } from './cleanup-stack.ts'
import type { ConsumeOptions, Consumer } from './consumer.ts'
import { type Context, currentContext, findInContext, outsideEveryScope, runInContext, runWithin } from './current.ts'
import type { Enqueueable, EnqueueOptions, JobSystem } from './job.ts'
import type { Json } from './json.ts'
import type { AnyLock, Locker, LockFor, LockKeys, LockOptions, ManualRelease, ScopeLocks } from './locker.ts'
import type { Logger } from './logger.ts'
import { assertUsable, owner } from './ownership.ts'
import type { ManualTransaction, Resource, TransactionalResource, TransactionOptions } from './resource.ts'

export type ScopeKind = 'request' | 'job' | 'task'

/** What a scope needs from the runtime it belongs to. */
export interface ScopeOwner {
  readonly logger: Logger
  readonly slots: readonly { readonly name: string; readonly resource: Resource<unknown> }[]
  /** All resources that know transactions. */
  readonly transactionals: readonly TransactionalResource[]
  /** The one of this name, or the only one. */
  transactional(name: string | undefined): TransactionalResource
  readonly locker: Locker
  readonly consume: Consumer
  /** What `createScopes` was given as jobs. */
  readonly jobs: JobSystem | undefined
  /** Runs a spawned task in a scope of its own. Never throws. */
  spawn(task: SpawnedTask): void
  /** Told once, when the scope has ended. */
  forget(scope: Scope): void
}

export interface ScopeInit {
  readonly id: string
  readonly kind: ScopeKind
  /** The route, the job or the task: what a report calls it. */
  readonly name: string
  /** How long it may take, in milliseconds; without it there is no deadline. */
  readonly timeoutMs?: number | undefined
  /** What a client's abort does: cancel what runs, or let the handler finish. Default `'finish'`. */
  readonly onAbort?: 'cancel' | 'finish' | undefined
  /** The logger whose child `scope.log` is; the runtime's by default. */
  readonly logger?: Logger | undefined
  /** What `scope.log` says besides the scope's id; its child is made when it is first used. */
  readonly logBindings?: object | undefined
  /** Called when it is cancelled, in no particular context: cheaper than a signal's listener where nobody wants the signal. */
  readonly onCancel?: (() => void) | undefined
}

/** What a scope holds of its runtime's capacity. */
export interface Permit {
  /** Told once, when the scope has ended. */
  scopeEnded(scope: Scope, outcome: Outcome): void
}

/** A scope may have been let in at several doors. */
class BothPermits implements Permit {
  readonly #first: Permit
  readonly #second: Permit

  constructor(first: Permit, second: Permit) {
    this.#first = first
    this.#second = second
  }

  scopeEnded(scope: Scope, outcome: Outcome): void {
    this.#second.scopeEnded(scope, outcome)
    this.#first.scopeEnded(scope, outcome)
  }
}

/** What `scope.spawn` was given. */
export interface SpawnedTask {
  readonly name: string
  // biome-ignore lint/suspicious/noExplicitAny: a scope of the runtime that runs it
  readonly fn: (task: any) => unknown
}

export interface SpawnOptions {
  /** Starts it also where the transaction around rolls back. Default false. */
  readonly always?: boolean
}

type State =
  | { readonly tag: 'open' }
  /** `done` is missing while the first handles are released: where that takes no time, the scope ends at once. */
  | { readonly tag: 'ending'; readonly outcome: Outcome; readonly done: Promise<unknown[]> | undefined }
  | { readonly tag: 'ended'; readonly outcome: Outcome }

const OPEN: State = { tag: 'open' }
const ENDING_WELL: State = { tag: 'ending', outcome: COMPLETED, done: undefined }
const ENDED_WELL: State = { tag: 'ended', outcome: COMPLETED }
const CLEANING_UP = Symbol('reqscope.cleaning-up')
const opened = eventChannel('reqscope:scope:opened')
const ended = eventChannel('reqscope:scope:ended')
const summarised = eventChannel('reqscope:scope:summary')

/**
 * One unit of work with an owner: a request, a job or a task. It hands out handles of the runtime's resources, bound to
 * itself, and takes everything back when it ends.
 */
export class Scope implements ScopeDescription {
  readonly id: string
  readonly kind: ScopeKind
  /** The route, the job or the task. */
  readonly name: string

  /** When its deadline passes, in milliseconds since the epoch; undefined without one. */
  readonly deadline: number | undefined

  readonly #owner: ScopeOwner
  #onAbort: 'cancel' | 'finish'
  readonly #openedAt: number
  #state: State = OPEN
  #handles: unknown[] | undefined
  #cleanups: CleanupStack | undefined
  #permit: Permit | undefined
  #controller: AbortController | undefined
  #signalReason: ReqscopeError | undefined
  #cancelReason: ReqscopeError | undefined
  #deadlineTimer: NodeJS.Timeout | undefined
  #timeoutMs = 0
  /** The deadline by the clock that nobody sets. */
  #dueAt = Number.POSITIVE_INFINITY
  #parentLogger: Logger | undefined
  #log: Logger | undefined
  #locks: ScopeLocks | undefined
  readonly #logBindings: object | undefined
  #spawned: SpawnedTask[] | undefined
  readonly #onCancel: (() => void) | undefined
  // Its neighbours among the open scopes of its runtime. Private: whoever prints a scope must not see other requests.
  #older: Scope | undefined
  #newer: Scope | undefined

  /** @internal Puts a scope behind the newest one that is open; for the list of them alone, like what follows. */
  static link(scope: Scope, newest: Scope | undefined): void {
    scope.#older = newest
    if (newest !== undefined) newest.#newer = scope
  }

  /** @internal Returns the next older one. */
  static unlink(scope: Scope): Scope | undefined {
    const older = scope.#older
    const newer = scope.#newer
    if (older !== undefined) older.#newer = newer
    if (newer !== undefined) newer.#older = older
    scope.#older = scope.#newer = undefined
    return older
  }

  /** @internal */
  static olderThan(scope: Scope): Scope | undefined {
    return scope.#older
  }

  /** @internal Scopes are opened by the runtime: `scopes.run`, or an adapter. */
  constructor(owner: ScopeOwner, init: ScopeInit) {
    this.#owner = owner
    this.id = init.id
    this.kind = init.kind
    this.name = init.name
    this.#onAbort = init.onAbort ?? 'finish'
    this.#parentLogger = init.logger
    this.#logBindings = init.logBindings
    this.#onCancel = init.onCancel
    this.#openedAt = performance.now()
    this.deadline = init.timeoutMs === undefined ? undefined : this.#startDeadline(init.timeoutMs)
    if (opened.hasSubscribers) opened.publish({ scope: this.describe() })
  }

  get state(): 'open' | 'ending' | 'ended' {
    return this.#state.tag
  }

  /** Fires when the client goes away, the deadline passes or the application shuts down; never on a normal end. */
  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController()
      if (this.#signalReason !== undefined) this.#controller.abort(this.#signalReason)
    }
    return this.#controller.signal
  }

  /** A child of the application's logger that carries the scope's id. */
  get log(): Logger {
    this.#log ??= (this.#parentLogger ?? this.#owner.logger).child({ scopeId: this.id, ...this.#logBindings })
    return this.#log
  }

  /**
   * Runs `cleanup` when the scope ends, last-in first-out, told how the scope ended. The scope's handles still work in
   * it. After the clean-ups it runs at once.
   */
  defer(cleanup: Cleanup): void {
    const state = this.#state
    if (state.tag === 'open') this.#cleanups ??= new CleanupStack()
    if (this.#cleanups?.push(cleanup)) return
    const late = new CleanupStack()
    late.push(cleanup)
    const outcome = state.tag === 'open' ? COMPLETED : state.outcome
    void late.run(outcome).then((failures) => this.#reportFailures(failures))
  }

  /**
   * Runs `fn` once the transaction around has committed, and not at all if it rolls back; at once where there is none.
   * With several resources that know transactions it is the innermost transaction of any of them.
   */
  afterCommit(fn: () => unknown): void {
    if (this.#registerAfterCommit(fn)) return
    void (async () => fn())().catch((error: unknown) =>
      this.log.error({ err: error }, 'an afterCommit function failed'),
    )
  }

  #registerAfterCommit(fn: () => unknown): boolean {
    const { transactionals } = this.#owner
    const [first] = transactionals
    const context = currentContext()
    if (first === undefined) return false
    if (transactionals.length === 1 || context?.scope !== this) return first.afterCommit(this, fn)
    // Only a link's owner knows its key, so each is asked for each link, with nothing else around but the clean-up.
    const base: Context = this.isCleaningUp(context)
      ? { scope: this, parent: this, key: CLEANING_UP, value: this }
      : this
    const seen = new Set<unknown>()
    for (let link: Context | undefined = context; link?.parent !== undefined; link = link.parent) {
      const { key, value } = link
      if (seen.has(key)) continue // a link further in hides it
      seen.add(key)
      const isRegistered = runWithin(base, key, value, () => transactionals.some((each) => each.afterCommit(this, fn)))
      if (isRegistered) return true
    }
    return first.afterCommit(this, fn) // there is none, or `fn` comes too late to be registered: it says which
  }

  /**
   * A function that runs `fn` in this scope, for libraries that lose the context of their caller: where `bind` is called,
   * so inside the transaction around it, or in the scope itself where that is not the current one.
   */
  bind<This, Args extends unknown[], Result>(
    fn: (this: This, ...args: Args) => Result,
  ): (this: This, ...args: Args) => Result {
    const around = currentContext()
    const context: Context = around?.scope === this ? around : this
    return function bound(this: This, ...args) {
      return runInContext(context, () => fn.apply(this, args))
    }
  }

  /**
   * Runs `fn` in a transaction and commits when it has resolved; what it throws rolls back. Code called inside is in the
   * transaction wherever it is, by ancestry. Inside another transaction the default is to join it.
   *
   * @throws TransactionEndedError when the function resolved but the transaction can't be committed.
   * @throws ConnectionLostError with `outcome: 'unknown'` when the connection was lost during the COMMIT.
   */
  transaction<Result>(fn: () => Result | Promise<Result>): Promise<Result>
  transaction<Result>(options: TransactionOptions, fn: () => Result | Promise<Result>): Promise<Result>
  async transaction<Result>(
    ...args: [() => Result | Promise<Result>] | [TransactionOptions, () => Result | Promise<Result>]
  ): Promise<Result> {
    const [options, fn] = args.length === 1 ? [{}, args[0]] : args
    return this.#owner.transactional(options.resource).transaction(this, options, fn)
  }

  /**
   * Runs `fn` while this scope holds the lock, across all processes that use the same store. The lease renews itself; once
   * it was lost, statements of the scope inside `fn` reject with LockLostError, and so does the lock itself after `fn`.
   * Taken inside a transaction, the lock is given back when that has ended. Inside `fn` the same key is had at once.
   *
   * @param keys one key, or several that are had all or not at all.
   * @throws LockTimeoutError when it was not free within `waitMs`.
   * @throws LockUnavailableError when the store can't be reached.
   */
  lock<Result>(keys: LockKeys, fn: (lock: LockFor<object>) => Result | Promise<Result>): Promise<Result>
  lock<Result, const Options extends LockOptions>(
    keys: LockKeys,
    options: Options,
    fn: (lock: LockFor<Options>) => Result | Promise<Result>,
  ): Promise<Result>
  async lock<Result>(
    keys: LockKeys,
    ...rest: [(lock: never) => Result | Promise<Result>] | [LockOptions, (lock: never) => Result | Promise<Result>]
  ): Promise<Result> {
    const [options, fn] = rest.length === 1 ? [{}, rest[0]] : rest
    return this.#owner.locker.lock(this, keys, options, fn as (lock: AnyLock) => Result | Promise<Result>)
  }

  /**
   * Takes the lock if it is free, for as long as the caller or the scope pleases; undefined if somebody else holds it.
   * All statements of the scope count as inside of it. It is released by hand, or by `await using`.
   */
  async tryLock<const Options extends LockOptions>(
    keys: LockKeys,
    options?: Options,
  ): Promise<(LockFor<Options> & ManualRelease) | undefined> {
    return (await this.#owner.locker.tryAcquire(this, keys, options ?? {})) as
      | (LockFor<Options> & ManualRelease)
      | undefined
  }

  /**
   * Takes the lock, waiting as `lock` does, to be released by hand: `await using lock = await scope.acquireLock(key)`.
   * All statements of the scope count as inside of it. Other calls for the same key wait, unless they pass `reentrant: true`.
   *
   * @throws LockTimeoutError and LockUnavailableError as `lock` does.
   */
  async acquireLock<const Options extends LockOptions>(
    keys: LockKeys,
    options?: Options,
  ): Promise<LockFor<Options> & ManualRelease> {
    return (await this.#owner.locker.acquire(this, keys, options ?? {})) as LockFor<Options> & ManualRelease
  }

  /**
   * Consumes from a rate limit, of whoever `key` stands for; resolves to what is left of it, for a shadow to nothing.
   *
   * @throws RateLimitExceededError when there is not enough left; nothing is consumed then.
   * @throws OverloadedError when the store can't be asked and `onStoreFailure` is `'refuse'`.
   */
  consume(options: ConsumeOptions): Promise<RateLimitState | undefined> {
    if (this.#cancelReason !== undefined) return Promise.reject(this.#cancelReason)
    return this.#owner.consume(options)
  }

  /**
   * Puts a job into its queue. Inside a transaction it is there if, and only if, the transaction commits.
   *
   * @returns the job's id. With `deduplication` it may be of the job that is there already; inside a transaction it may
   *   then name no job at all.
   * @throws JobPayloadError for data that JSON would change or drop, with the path.
   * @throws ScopeLeakError for data that belongs to a scope, with the path.
   * @throws ConnectionLostError where the queue can't be reached.
   */
  enqueue<Input, Data extends Input>(
    job: Enqueueable<Input>,
    data: Data & Json<Data>,
    options?: EnqueueOptions,
  ): Promise<string> {
    // Not async: with one promise less it is noticeably quicker.
    try {
      return this.#jobs('enqueue').enqueue(this, job as Enqueueable, data, options)
    } catch (error) {
      return Promise.reject(error)
    }
  }

  /** Puts several jobs of one kind into their queue, in this order and at once; see {@link enqueue}. */
  async enqueueAll<Input, Data extends Input>(
    job: Enqueueable<Input>,
    data: readonly (Data & Json<Data>)[],
    options?: EnqueueOptions,
  ): Promise<string[]> {
    return this.#jobs('enqueueAll').enqueueAll(this, job as Enqueueable, data, options)
  }

  #jobs(operation: string): JobSystem {
    assertUsable(this, operation, undefined)
    const { jobs } = this.#owner
    if (jobs === undefined) {
      throw new InvalidOptionError('createScopes.jobs', undefined, `given for scope.${operation}: bullmq({ … })`)
    }
    return jobs
  }

  /**
   * Runs `fn` in this process once the scope has ended, with a scope of its own: its response is closed by then, and the
   * transaction around has committed; where that rolls back, it does not run. What it throws is logged with its name.
   * When the process ends before, it is lost: what must happen is a job.
   *
   * @param name what reports call it: `warm-cache`.
   */
  spawn(name: string, fn: (task: this) => unknown): void
  spawn(name: string, options: SpawnOptions, fn: (task: this) => unknown): void
  spawn(name: string, ...rest: [(task: this) => unknown] | [SpawnOptions, (task: this) => unknown]): void {
    assertUsable(this, 'spawn', undefined)
    const [options, fn] = rest.length === 1 ? [{}, rest[0]] : rest
    if (typeof name !== 'string' || name === '') {
      throw new InvalidOptionError('spawn.name', name, 'a string that is not empty')
    }
    if (typeof fn !== 'function') throw new InvalidOptionError('spawn.fn', fn, 'a function')
    const { always } = options
    if (always !== undefined && typeof always !== 'boolean') {
      throw new InvalidOptionError('spawn.always', always, 'true or false')
    }
    const task: SpawnedTask = { name, fn }
    const start = () => this.#startAfterEnd(task)
    if (always === true || !this.#registerAfterCommit(start)) start()
  }

  #startAfterEnd(task: SpawnedTask): void {
    if (this.#state.tag === 'ended') {
      this.#owner.spawn(task)
      return
    }
    this.#spawned ??= []
    this.#spawned.push(task)
  }

  // What follows is for the runtime, the resources and the adapters; it is not part of the public face.

  /** @internal */ get parent(): undefined {
    return undefined
  }
  /** @internal */ get key(): undefined {
    return undefined
  }
  /** @internal */ get value(): undefined {
    return undefined
  }
  /** @internal */ get scope(): this {
    return this
  }

  /** @internal */ get [owner](): this {
    return this
  }

  /** @internal */
  describe(): ScopeDescription {
    return { id: this.id, kind: this.kind, name: this.name }
  }

  /** @internal Why its handles reject; undefined while they work. */
  get cancelReason(): ReqscopeError | undefined {
    if (this.#dueAt !== Number.POSITIVE_INFINITY) this.#noteDeadline()
    return this.#cancelReason
  }

  /** @internal Open, not cancelled, and under no lock: the one check of the fast path. */
  get acceptsUse(): boolean {
    if (this.#dueAt !== Number.POSITIVE_INFINITY) this.#noteDeadline()
    return this.#state === OPEN && this.#cancelReason === undefined && this.#locks === undefined
  }

  /** @internal */
  assertLocksHeld(context: Context | undefined): void {
    const refusal = this.#locks?.refusal(context)
    if (refusal !== undefined) throw refusal
  }

  // Without the mark that strips it from the declarations, as with `cancelReason`.
  /** What statements of the code that runs now are refused with: a lock it stands under was lost. */
  get lockRefusal(): ReqscopeError | undefined {
    return this.#locks?.refusal(currentContext())
  }

  /** @internal */
  get locks(): ScopeLocks | undefined {
    return this.#locks
  }

  /** @internal Set while the scope holds a lock or waits for one. */
  set locks(locks: ScopeLocks | undefined) {
    this.#locks = locks
    // What is held at the end takes time to give back, and only clean-ups are given any.
    if (locks !== undefined && this.#state === OPEN) this.#cleanups ??= new CleanupStack()
  }

  /** @internal All transactions that are around the code that runs now, one of each resource at most. */
  get transactionals(): readonly TransactionalResource[] {
    return this.#owner.transactionals
  }

  /** @internal */
  isSiblingOf(other: Scope): boolean {
    return this.#owner === other.#owner
  }

  /** @internal */
  belongsTo(owner: ScopeOwner): boolean {
    return this.#owner === owner
  }

  /** @internal */
  isCleaningUp(context: Context | undefined): boolean {
    return context?.scope === this && findInContext(context, CLEANING_UP) === this
  }

  /** @internal The handle of one resource, made on first use. */
  handleOf(slot: number): unknown {
    const handles = (this.#handles ??= new Array(this.#owner.slots.length))
    // Asked for after the end, it is made all the same: its first use says what is wrong, and where.
    if (!(slot in handles)) {
      const resource = this.#owner.slots[slot]?.resource
      handles[slot] = resource?.handle(this)
      if (resource?.releasesAsCleanup === true) this.#cleanups ??= new CleanupStack()
    }
    return handles[slot]
  }

  /** @internal Keeps what is given back when it has ended. */
  hold(permit: Permit): void {
    this.#permit = this.#permit === undefined ? permit : new BothPermits(this.#permit, permit)
  }

  /** @internal Whether somebody wants to know what it did: who listens to the event, or a log at debug. */
  get isSummarised(): boolean {
    return summarised.hasSubscribers || this.#logsDebug
  }

  get #logsDebug(): boolean {
    const logger = this.#parentLogger ?? this.#owner.logger
    return logger.isLevelEnabled?.('debug') === true
  }

  #summarise(outcome: Outcome): void {
    const resources: Record<string, object> = {}
    this.#handles?.forEach((handle, slot) => {
      const { name, resource } = this.#owner.slots[slot] ?? {}
      if (name !== undefined && resource?.summary !== undefined) resources[name] = resource.summary(handle)
    })
    const durationMs = Math.round((performance.now() - this.#openedAt) * 100) / 100
    const summary = { scope: this.describe(), outcome: outcome.tag, durationMs, resources }
    summarised.publish(summary)
    if (this.#logsDebug) this.log.debug(summary, `${this.kind} ${this.name} ended`)
  }

  /** @internal Which of the runtime's resources it has handles of, as bits; of the first 31. */
  get usedSlots(): number {
    let used = 0
    if (this.#handles !== undefined) {
      for (let slot = 0; slot < this.#handles.length && slot < 31; slot++) if (slot in this.#handles) used |= 1 << slot
    }
    return used
  }

  /** @internal */
  openTransaction(options: TransactionOptions): ManualTransaction {
    return this.#owner.transactional(options.resource).openTransaction(this, options)
  }

  /** @internal For adapters whose framework finds the route after the scope was opened. */
  rename(name: string): void {
    ;(this as { name: string }).name = name
  }

  /** @internal The same for what a route says of its scopes: counted from the scope's opening, and instead of what it was opened with. */
  restrict({ timeoutMs, onAbort }: Pick<ScopeInit, 'timeoutMs' | 'onAbort'>): void {
    if (onAbort !== undefined) this.#onAbort = onAbort
    if (timeoutMs === undefined || this.#state.tag !== 'open') return
    clearTimeout(this.#deadlineTimer)
    ;(this as { deadline: number | undefined }).deadline = this.#startDeadline(
      timeoutMs,
      performance.now() - this.#openedAt,
    )
  }

  /** @internal The client went away. */
  clientGone(): void {
    const reason = new ScopeAbortedError({ scope: this.describe(), reason: 'client' })
    this.#fire(reason)
    if (this.#onAbort === 'cancel') this.cancel(reason)
  }

  /** @internal Fires the signal, and leaves the work alone. */
  shutDown(): void {
    this.#fire(new ScopeAbortedError({ scope: this.describe(), reason: 'shutdown' }))
  }

  /** @internal Fires the signal, cancels what runs and makes the handles reject. */
  cancel(reason: ReqscopeError): void {
    if (this.#state.tag !== 'open' || this.#cancelReason !== undefined) return
    this.#cancelReason = reason
    this.#fire(reason)
    this.#locks?.cancelled(reason)
    this.#handles?.forEach((handle, slot) => {
      this.#owner.slots[slot]?.resource.cancel?.(handle, this, reason)
    })
    this.#onCancel?.()
  }

  /**
   * @internal Ends the scope, once: runs the clean-ups, then releases the handles, those that lend connections last.
   * Resolves to what they threw; never rejects. Returns nothing when it could end at once.
   */
  end(outcome: Outcome): Promise<unknown[]> | undefined {
    if (this.#state.tag === 'ended') return undefined
    if (this.#state.tag === 'ending') return this.#state.done
    clearTimeout(this.#deadlineTimer)
    const cleanups = this.#cleanups
    // Outside of the clean-ups the handles are dead from here on, so the state changes before anything is given back.
    if (cleanups === undefined) {
      this.#state = outcome === COMPLETED ? ENDING_WELL : { tag: 'ending', outcome, done: undefined }
      const releasing = this.#releaseHandles(outcome)
      if (releasing === undefined) return this.#finish(outcome, [])
      return this.#ending(
        outcome,
        releasing.then((failures) => this.#finished(outcome, failures)),
      )
    }
    let resolve!: (failures: unknown[]) => void
    const done = this.#ending(outcome, new Promise((settle) => (resolve = settle)))
    void this.#windDown(cleanups, outcome).then(resolve)
    return done
  }

  async #windDown(cleanups: CleanupStack, outcome: Outcome): Promise<unknown[]> {
    const released = new Set<number>()
    const failures = await runWithin(this, CLEANING_UP, this, () =>
      cleanups.run(outcome, () => this.#nextRelease(released)),
    )
    failures.push(...((await this.#releaseHandles(outcome)) ?? []))
    await this.#locks?.end() // after the transactions: what they wrote is visible to the next holder, or undone
    return this.#finished(outcome, failures)
  }

  /** The release of the last handle that is left of those whose release counts as a clean-up. */
  #nextRelease(released: Set<number>): Cleanup | undefined {
    const handles = this.#handles ?? []
    // From the end each time: a release may be the first to use a handle.
    for (let slot = handles.length - 1; slot >= 0; slot--) {
      const resource = this.#owner.slots[slot]?.resource
      if (resource?.releasesAsCleanup !== true || !(slot in handles) || released.has(slot)) continue
      released.add(slot)
      return (outcome) => resource.release(handles[slot], this, outcome)
    }
    return undefined
  }

  /** Releases what lends connections. */
  #releaseHandles(outcome: Outcome): Promise<unknown[]> | undefined {
    const handles = this.#handles
    if (handles === undefined) return undefined
    let releasing: Promise<unknown>[] | undefined
    for (let slot = handles.length - 1; slot >= 0; slot--) {
      if (!(slot in handles)) continue // a hole: nobody asked for this one
      const resource = this.#owner.slots[slot]?.resource
      if (resource === undefined || resource.releasesAsCleanup === true) continue
      try {
        const released = resource.release(handles[slot], this, outcome)
        if (released !== undefined) (releasing ??= []).push(released)
      } catch (failure) {
        const rejected = Promise.reject(failure)
        ;(releasing ??= []).push(rejected)
      }
    }
    return (
      releasing &&
      Promise.allSettled(releasing).then((all) =>
        all.flatMap((each) => (each.status === 'rejected' ? [each.reason] : [])),
      )
    )
  }

  #ending(outcome: Outcome, done: Promise<unknown[]>): Promise<unknown[]> {
    this.#state = { tag: 'ending', outcome, done }
    return done
  }

  #finished(outcome: Outcome, failures: unknown[]): unknown[] {
    this.#finish(outcome, failures)
    return failures
  }

  #finish(outcome: Outcome, failures: unknown[]): undefined {
    this.#state = outcome === COMPLETED ? ENDED_WELL : { tag: 'ended', outcome }
    this.#reportFailures(failures)
    // Before the scope is forgotten: a shutdown that waits for it then waits for what it has spawned.
    if (this.#spawned !== undefined) for (const task of this.#spawned) this.#owner.spawn(task)
    this.#owner.forget(this)
    if (this.#permit !== undefined) this.#permit.scopeEnded(this, outcome)
    if (this.#handles !== undefined && this.isSummarised) this.#summarise(outcome)
    if (ended.hasSubscribers) {
      ended.publish({ scope: this.describe(), outcome: outcome.tag, durationMs: performance.now() - this.#openedAt })
    }
  }

  #reportFailures(failures: unknown[]): void {
    if (failures.length === 0) return
    const error = failures.length === 1 ? failures[0] : new AggregateError(failures, 'several clean-ups failed')
    this.log.error({ err: error, scope: this.describe() }, 'a clean-up of the scope failed')
  }

  #fire(reason: ReqscopeError): void {
    // A connection that closes after a normal end is no abort.
    if (this.#signalReason !== undefined || this.#state.tag === 'ended') return
    this.#signalReason = reason
    const controller = this.#controller
    // Listeners run in the context of whoever aborts: let that be this scope.
    if (controller !== undefined) runInContext(this, () => controller.abort(reason))
  }

  #startDeadline(timeoutMs: number, passedMs = 0): number {
    const leftMs = Math.max(0, timeoutMs - passedMs)
    this.#timeoutMs = timeoutMs
    this.#dueAt = this.#openedAt + timeoutMs
    this.#deadlineTimer = outsideEveryScope(() => setTimeout(() => this.#passDeadline(), leftMs))
    return Date.now() + leftMs
  }

  /** Code that keeps the loop busy past the deadline goes on before the timer does: it is stopped by its next statement. */
  #noteDeadline(): void {
    if (performance.now() >= this.#dueAt) this.#passDeadline()
  }

  #passDeadline(): void {
    this.#dueAt = Number.POSITIVE_INFINITY
    this.cancel(new DeadlineExceededError({ scope: this.describe(), timeoutMs: this.#timeoutMs }))
  }
}
