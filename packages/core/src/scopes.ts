import { randomUUID } from 'node:crypto'
import { InvalidOptionError, OverloadedError, ScopeAbortedError } from './errors.ts'
import type { LeaseDescription } from './events.ts'
import { checkThresholds, EventLoopDelay, type Health, type HealthThresholds, healthOf } from './health.ts'
import { consume } from './limits/consume.ts'
import { RateLimiter } from './limits/rate-limiter.ts'
import { RedisStore } from './limits/redis-store.ts'
import { lockStoreOf } from './locks/choice.ts'
import { Locks } from './locks/locks.ts'
import type { LockStore } from './locks/store.ts'
import { OptionReader } from './options.ts'
import { redisAccessOf } from './redis/access.ts'
import { COMPLETED } from './scope/cleanup-stack.ts'
import type { ConsumeOptions } from './scope/consumer.ts'
import { currentContext, outsideEveryScope, runInContext } from './scope/current.ts'
import type { Enqueueable, JobSystem, JobWorkers, WorkOptions } from './scope/job.ts'
import { Ledger } from './scope/ledger.ts'
import type { AnyLock, LockFor, LockKeys, LockOptions } from './scope/locker.ts'
import { isLogger, type Logger, stderrLogger } from './scope/logger.ts'
import { OpenScopes } from './scope/open-scopes.ts'
import type { ScopeWith } from './scope/register.ts'
import { type AnyResource, isTransactional, type Resources, type TransactionalResource } from './scope/resource.ts'
import { Scope, type ScopeInit, type ScopeKind, type SpawnedTask } from './scope/scope.ts'

export interface ScopesOptions<R extends Resources, J extends JobSystem | undefined = undefined> {
  /** What scopes hand out handles of, by the name of the handle. */
  readonly resources: R
  /** What `scope.enqueue` and `scopes.work` go through: `bullmq({ … })` of `@reqscope/core/jobs`. */
  readonly jobs?: J
  /** A logger of pino's shape. Default: Fastify's with the Fastify plugin, else warnings and errors to stderr. */
  readonly logger?: Logger
  /** How long a handler may take to settle after its response was closed, in milliseconds. Default 10,000. */
  readonly settleTimeoutMs?: number
  /** What `health` calls degraded. */
  readonly health?: { readonly thresholds?: HealthThresholds }
  /** Where locks are kept. Default: in the first Redis among the resources, else in the first Postgres. */
  readonly locks?: { readonly store?: LockStore }
}

export interface RunOptions {
  /** What a report calls it: `nightly-stock-check`. */
  readonly name: string
  /** Default `'task'`. */
  readonly kind?: ScopeKind
  /** Default: a random UUID. */
  readonly id?: string
  /** How long it may take, in milliseconds; without it there is no deadline. */
  readonly timeoutMs?: number
  /** Cancels the scope when it fires. */
  readonly signal?: AbortSignal
}

/** Who is there and who holds what, at this moment. */
export interface Snapshot {
  readonly state: 'open' | 'closing' | 'closed'
  readonly openScopes: { readonly total: number; readonly request: number; readonly job: number; readonly task: number }
  /** Every lease that is out, the longest-held first. */
  readonly leases: readonly LeaseDescription[]
}

const STOP_AFTER_FAILED_START_MS = 1_000

type Life =
  | { readonly tag: 'idle' }
  | { readonly tag: 'starting' | 'started'; readonly done: Promise<void> }
  /** `closing` while scopes may finish, `stopping` while the resources are closed: from then on nothing is opened. */
  | { readonly tag: 'closing' | 'stopping' | 'closed'; readonly done: Promise<void> }

const IDLE: Life = { tag: 'idle' }

// Members of a scope, today's and those that belong to features of this package: no resource may be named like one.
const RESERVED: ReadonlySet<string> = new Set([
  ...Object.getOwnPropertyNames(Scope.prototype),
  ...['id', 'kind', 'name', 'deadline', 'then', 'lock', 'tryLock', 'acquireLock', 'consume'],
])

/**
 * The runtime: knows the resources, opens scopes, answers who holds what, and closes. Made by {@link createScopes}.
 */
export class Scopes<R extends Resources = Resources, J extends JobSystem | undefined = JobSystem | undefined> {
  readonly resources: R
  /** What it was given as jobs: BullMQ's own queues, schedulers and flows are reached through it. */
  readonly jobs: J
  /** How long a handler may take to settle after its response was closed, in milliseconds. */
  readonly settleTimeoutMs: number

  /** For adapters: the resources in the order of their slots. */
  get slots(): readonly { readonly name: string; readonly resource: AnyResource }[] {
    return this.#slots
  }

  readonly #slots: readonly { readonly name: string; readonly resource: AnyResource }[]
  readonly #transactionals: readonly { readonly name: string; readonly resource: TransactionalResource }[]
  readonly #ScopeClass: typeof Scope
  readonly #ledger = new Ledger()
  readonly #thresholds: Required<HealthThresholds>
  readonly #eventLoopDelay = new EventLoopDelay()
  readonly #open = new OpenScopes()
  readonly #locks: Locks
  /** For adapters: decides on rate limits, with the first resource that is Redis, else with counts of this process alone. */
  readonly rateLimiter: RateLimiter
  #logger: Logger | undefined
  #life: Life = IDLE
  /** What was opened and has to be closed. */
  readonly #running = new Set<AnyResource>()
  #jobsRun = false
  #drained: (() => void) | undefined

  /** @internal Use {@link createScopes}. */
  constructor(options: ScopesOptions<R, J>) {
    const read = new OptionReader('createScopes', options).onlyKnown([
      'resources',
      'jobs',
      'logger',
      'settleTimeoutMs',
      'health',
      'locks',
    ])
    read.object('health')
    new OptionReader('createScopes.health', options.health ?? {}).onlyKnown(['thresholds'])
    this.#thresholds = checkThresholds(options.health?.thresholds, 'createScopes.health.thresholds')
    this.settleTimeoutMs = read.milliseconds('settleTimeoutMs', 10_000)
    this.resources = checkedResources(options.resources)
    if (options.logger !== undefined && !isLogger(options.logger)) {
      throw new InvalidOptionError(
        'createScopes.logger',
        options.logger,
        "a logger of pino's shape: debug, info, warn, error, child",
      )
    }
    this.#logger = options.logger
    this.#slots = Object.entries(this.resources).map(([name, resource]) => ({ name, resource }))
    this.#transactionals = this.#slots.flatMap(({ name, resource }) =>
      isTransactional(resource) ? [{ name, resource }] : [],
    )
    this.#ScopeClass = scopeClassFor(this.#slots)
    for (const { name, resource } of this.#slots) {
      resource.attach?.({ name, ledger: this.#ledger, logger: () => this.logger })
    }
    this.#locks = new Locks(lockStoreOf(options.locks, Object.values(this.resources)), () => this.logger)
    const redis = this.#slots.map(({ resource }) => redisAccessOf(resource)).find((access) => access !== undefined)
    this.rateLimiter = new RateLimiter(redis === undefined ? undefined : new RedisStore(redis), () => this.logger)
    this.jobs = checkedJobs(options.jobs) as J
    const runtime = this
    this.jobs?.attach({
      resources: this.resources,
      get logger() {
        return runtime.logger
      },
      open: (init) => this.#openScope(init),
    })
  }

  get logger(): Logger {
    this.#logger ??= stderrLogger()
    return this.#logger
  }

  /** Gives the runtime a logger where it was made without one; an adapter calls it with its framework's. */
  adoptLogger(logger: Logger): void {
    this.#logger ??= logger
  }

  /** Whether the runtime still takes work. */
  get state(): 'open' | 'closing' | 'closed' {
    const { tag } = this.#life
    return tag === 'closed' ? 'closed' : tag === 'closing' || tag === 'stopping' ? 'closing' : 'open'
  }

  /**
   * Opens the resources, in the order they are named in; once, however often it is called. `run` does it by itself.
   * When one of them fails, those before it are closed again.
   *
   * @throws OverloadedError when the runtime is closing.
   */
  start(): Promise<void> {
    const life = this.#life
    if (life.tag === 'starting' || life.tag === 'started') return life.done
    if (life.tag !== 'idle') return Promise.reject(shuttingDown('scopes.start'))
    // A turn later, so that the state is set by then.
    const done = outsideEveryScope(() => Promise.resolve().then(() => this.#start()))
    this.#life = { tag: 'starting', done }
    return done
  }

  async #start(): Promise<void> {
    try {
      for (const { name, resource } of this.#slots) {
        await resource.start({ name, logger: this.logger })
        this.#running.add(resource)
        if (this.#isStopping) throw shuttingDown('scopes.start') // the close has not waited for it
      }
      this.#eventLoopDelay.start()
      if (this.jobs !== undefined) {
        this.#jobsRun = true // also while it starts: what it has opened by then has to be closed
        await this.jobs.start()
        if (this.#isStopping) throw shuttingDown('scopes.start')
      }
      if (this.#life.tag === 'starting') this.#life = { tag: 'started', done: this.#life.done }
    } catch (cause) {
      await this.#stopJobs(STOP_AFTER_FAILED_START_MS)
      await this.#stopWhatRuns(() => STOP_AFTER_FAILED_START_MS)
      if (this.#life.tag === 'starting') this.#life = IDLE
      throw cause
    }
  }

  get #isStopping(): boolean {
    return this.#life.tag === 'stopping' || this.#life.tag === 'closed'
  }

  /**
   * Runs `fn` in a scope of its own and ends the scope when it has settled: for scripts, schedules, each message of a
   * socket. Inside another scope the new one is current and the outer one's handles are refused.
   *
   * @throws what `fn` throws; an AggregateError of what its clean-ups threw where `fn` itself succeeded.
   * @throws OverloadedError when the runtime is closing.
   */
  async run<Result>(
    options: RunOptions,
    fn: (scope: ScopeWith<R>) => Result | Promise<Result>,
  ): Promise<Awaited<Result>> {
    const init = checkedRunOptions(options)
    if (this.state !== 'open') throw shuttingDown(`${init.kind} ${init.name}`)
    if (this.#life.tag !== 'started') await this.start()
    const scope = this.open(init)
    const unlisten = cancelWith(options.signal, scope)
    try {
      // A query that `fn` returns is sent when it is awaited: that has to happen in the scope, too.
      const result = await runInContext(scope, async () => fn(scope))
      // What was cancelled is not complete, even if `fn` swallowed what its handles told it.
      const { cancelReason } = scope
      const failures = await scope.end(cancelReason === undefined ? COMPLETED : { tag: 'aborted', error: cancelReason })
      if (failures !== undefined && failures.length > 0) {
        throw new AggregateError(failures, `the clean-ups of ${scope.kind} ${scope.name} failed`)
      }
      return result
    } catch (error) {
      await scope.end({ tag: scope.cancelReason === undefined ? 'failed' : 'aborted', error })
      throw error
    } finally {
      unlisten()
    }
  }

  /**
   * Runs `fn` while this process holds the lock, outside of every scope: for start-up work, migrations. Inside a scope of
   * this runtime it is that scope's `lock`.
   *
   * @throws LockTimeoutError when it was not free within `waitMs`.
   * @throws LockUnavailableError when the store can't be reached.
   */
  withLock<Result>(keys: LockKeys, fn: (lock: LockFor<object>) => Result | Promise<Result>): Promise<Result>
  withLock<Result, const Options extends LockOptions>(
    keys: LockKeys,
    options: Options,
    fn: (lock: LockFor<Options>) => Result | Promise<Result>,
  ): Promise<Result>
  async withLock<Result>(
    keys: LockKeys,
    ...rest: [(lock: never) => Result | Promise<Result>] | [LockOptions, (lock: never) => Result | Promise<Result>]
  ): Promise<Result> {
    const [options, given] = rest.length === 1 ? [{}, rest[0]] : rest
    const fn = given as (lock: AnyLock) => Result | Promise<Result>
    const scope = currentContext()?.scope
    if (scope?.state === 'open' && scope.belongsTo(this.#owner)) return this.#locks.lock(scope, keys, options, fn)
    if (this.state !== 'open') throw shuttingDown('withLock')
    if (this.#locks.needsScope)
      return this.run({ name: 'withLock' }, (task) => this.#locks.lock(task, keys, options, fn))
    if (this.#life.tag !== 'started') await this.start()
    return this.#locks.withLock(keys, options, fn)
  }

  /**
   * Opens a scope that its opener must end, for adapters; everything else uses `run`. No I/O happens here.
   *
   * @throws OverloadedError when the runtime is closing.
   */
  open(init: ScopeInit): ScopeWith<R> {
    const { tag } = this.#life
    if (tag !== 'started') {
      if (this.state !== 'open') throw shuttingDown(`${init.kind} ${init.name}`)
      // Whoever does not start the runtime can use it all the same, and what that opens has to be closed.
      for (const { resource } of this.#slots) this.#running.add(resource)
    }
    return this.#openScope(init)
  }

  #openScope(init: ScopeInit): ScopeWith<R> {
    const scope = new this.#ScopeClass(this.#owner, init)
    this.#open.add(scope)
    return scope as ScopeWith<R>
  }

  /**
   * Starts workers for these jobs in this process; each attempt runs in a scope of its own. They are closed with the
   * runtime at the latest.
   *
   * @throws InvalidOptionError where the runtime has no `jobs`, or two jobs have one name.
   */
  async work(
    jobs: readonly Enqueueable<never>[],
    options: WorkOptions = {},
  ): Promise<J extends JobSystem<infer Workers> ? Workers : JobWorkers> {
    if (this.jobs === undefined) {
      throw new InvalidOptionError('createScopes.jobs', undefined, 'given for scopes.work: bullmq({ … })')
    }
    if (this.state !== 'open') throw shuttingDown('scopes.work')
    await this.start()
    return this.jobs.work(jobs, options) as never
  }

  /**
   * How the resources are, as they say themselves. Never rejects.
   *
   * @param options.timeoutMs what says nothing for so long is down, in milliseconds. Default 2,000.
   */
  health(options: { readonly timeoutMs?: number } = {}): Promise<Health> {
    const timeoutMs = new OptionReader('health', options).onlyKnown(['timeoutMs']).milliseconds('timeoutMs', 2_000)
    const { jobs } = this
    const parts = jobs === undefined ? [] : [{ name: 'jobs', resource: jobs }]
    return healthOf({
      slots: this.#slots,
      parts,
      state: this.state,
      timeoutMs,
      thresholds: this.#thresholds,
      eventLoopDelayMs: this.#eventLoopDelay.read(),
      oldestLease: this.#ledger.describe()[0],
    })
  }

  /** Who holds the connections? */
  snapshot(): Snapshot {
    const openScopes = { total: this.#open.size, request: 0, job: 0, task: 0 }
    for (const scope of this.#open.list()) openScopes[scope.kind]++
    return { state: this.state, openScopes, leases: this.#ledger.describe() }
  }

  /**
   * Takes no more work, lets the open scopes finish, signals them after half of the time, cancels and ends what is left
   * shortly before it is over, and closes the resources. Never rejects; what goes wrong is logged.
   *
   * @param options.timeoutMs how long all of it may take, in milliseconds. Default 10,000.
   */
  close(options: { readonly timeoutMs?: number } = {}): Promise<void> {
    const timeoutMs = new OptionReader('close', options).onlyKnown(['timeoutMs']).milliseconds('timeoutMs', 10_000)
    const life = this.#life
    if (this.state !== 'open' && life.tag !== 'idle') return life.done
    const starting = life.tag === 'starting' ? life.done.catch(() => {}) : undefined
    // A turn later, so that the state is set by then.
    const done = outsideEveryScope(() => Promise.resolve().then(() => this.#close(timeoutMs, starting)))
    this.#life = { tag: 'closing', done }
    return done
  }

  /** @param starting settles when a start that is under way has; whatever it opens after this gave up, it closes. */
  async #close(timeoutMs: number, starting: Promise<void> | undefined): Promise<void> {
    const startedAt = performance.now()
    const left = () => Math.max(0, timeoutMs - (performance.now() - startedAt))
    if (starting !== undefined) await inTime(starting, timeoutMs / 2)
    // It gives up a little earlier than the scopes of its jobs are ended by force, so that these go back to their queue.
    const workers = this.#jobsRun ? this.jobs?.drain(left() * 0.8) : undefined
    await this.#drain(Math.max(0, left() - timeoutMs / 2))
    for (const scope of this.#open.list()) scope.shutDown()
    await this.#drain(left() * 0.8)
    if (workers !== undefined) await inTime(workers, left() / 2)
    await this.#endWhatIsLeft(left() / 2)
    await this.#stopJobs(left() / 2)
    this.#become('stopping')
    this.#eventLoopDelay.stop()
    await this.#stopWhatRuns(() => Math.max(100, left()))
    if (starting !== undefined) await inTime(starting, left())
    this.#become('closed')
  }

  #become(tag: 'stopping' | 'closed'): void {
    const life = this.#life
    if (life.tag !== 'idle') this.#life = { tag, done: life.done }
  }

  async #stopWhatRuns(left: () => number): Promise<void> {
    try {
      await inTime(this.#locks.close(), left() / 2)
    } catch (error) {
      this.logger.error({ err: error }, 'the lock store failed to close')
    }
    for (const { name, resource } of this.#slots.toReversed()) {
      if (!this.#running.delete(resource)) continue
      const timeoutMs = left()
      try {
        const stopped = await inTime(resource.stop({ timeoutMs }), timeoutMs)
        if (!stopped) throw new Error(`it did not close within ${Math.round(timeoutMs)} ms`)
      } catch (error) {
        this.logger.error({ err: error, resource: name }, 'a resource failed to close')
      }
    }
  }

  async #stopJobs(timeoutMs: number): Promise<void> {
    if (!this.#jobsRun) return
    this.#jobsRun = false
    try {
      const stopped = await inTime(Promise.resolve(this.jobs?.stop({ timeoutMs })), Math.max(100, timeoutMs))
      if (!stopped) throw new Error(`they did not close within ${Math.round(timeoutMs)} ms`)
    } catch (error) {
      this.logger.error({ err: error }, 'the jobs failed to close')
    }
  }

  async #drain(forMs: number): Promise<void> {
    if (this.#open.size === 0) return
    let timer: NodeJS.Timeout | undefined
    await new Promise<void>((resolve) => {
      this.#drained = resolve
      timer = setTimeout(resolve, forMs)
    })
    clearTimeout(timer)
    this.#drained = undefined
  }

  async #endWhatIsLeft(withinMs: number): Promise<void> {
    if (this.#open.size === 0) return
    this.logger.warn(
      { scopes: this.#open.list().map((scope) => scope.describe()) },
      'scopes had to be ended to shut down',
    )
    for (const scope of this.#open.list()) {
      const error = new ScopeAbortedError({ scope: scope.describe(), reason: 'shutdown' })
      scope.cancel(error)
      void scope.end({ tag: 'aborted', error })
    }
    await this.#drain(withinMs)
  }

  // One object for all scopes, so a scope carries no closures of its own.
  readonly #owner = (() => {
    const runtime = this
    return {
      get logger() {
        return runtime.logger
      },
      get locker() {
        return runtime.#locks
      },
      get slots() {
        return runtime.#slots
      },
      get transactionals() {
        return runtime.#transactionals.map(({ resource }) => resource)
      },
      get jobs() {
        return runtime.jobs
      },
      spawn: (task: SpawnedTask) => runtime.#spawn(task),
      transactional: (name: string | undefined) => runtime.#transactional(name),
      consume: (options: ConsumeOptions) => consume(runtime.rateLimiter, options),
      forget(scope: Scope) {
        runtime.#open.delete(scope)
        if (runtime.#open.size === 0) runtime.#drained?.()
      },
    }
  })()

  #spawn({ name, fn }: SpawnedTask): void {
    if (this.#isStopping) {
      this.logger.error({ task: name }, 'a spawned task was not started: the resources are closed')
      return
    }
    const scope = this.#openScope({ id: randomUUID(), kind: 'task', name })
    void outsideEveryScope(async () => {
      try {
        await runInContext(scope, async () => fn(scope))
        const { cancelReason } = scope
        if (cancelReason !== undefined) throw cancelReason
        await scope.end(COMPLETED)
      } catch (error) {
        scope.log.error({ err: error, task: name }, 'a spawned task failed')
        await scope.end({ tag: scope.cancelReason === undefined ? 'failed' : 'aborted', error })
      }
    })
  }

  #transactional(name: string | undefined): TransactionalResource {
    const all = this.#transactionals
    const [found, ...others] = name === undefined ? all : all.filter((slot) => slot.name === name)
    if (found !== undefined && others.length === 0) return found.resource
    const names = all.map((slot) => `'${slot.name}'`).join(', ')
    throw new InvalidOptionError(
      'transaction.resource',
      name,
      all.length === 0 ? 'left alone: the runtime has no resource that knows transactions' : `one of ${names}`,
    )
  }
}

/**
 * Makes the runtime of an application. Nothing is opened yet: the adapter, `scopes.run` or `scopes.start` does that.
 *
 * @throws InvalidOptionError naming the option that is wrong.
 */
export function createScopes<const R extends Resources, J extends JobSystem | undefined = undefined>(
  options: ScopesOptions<R, J>,
): Scopes<R, J> {
  return new Scopes(options)
}

function checkedJobs(jobs: JobSystem | undefined): JobSystem | undefined {
  if (jobs !== undefined && typeof (jobs as Partial<JobSystem> | null)?.enqueue !== 'function') {
    throw new InvalidOptionError('createScopes.jobs', jobs, 'what bullmq(…) returned')
  }
  return jobs
}

function checkedResources<R extends Resources>(resources: R): R {
  if (typeof resources !== 'object' || resources === null) {
    throw new InvalidOptionError('createScopes.resources', resources, 'an object of resources by name')
  }
  for (const [name, resource] of Object.entries(resources)) {
    if (RESERVED.has(name)) {
      throw new InvalidOptionError(
        `createScopes.resources.${name}`,
        resource,
        'given another name: scopes have a member of this one',
      )
    }
    if (typeof (resource as Partial<AnyResource> | undefined)?.handle !== 'function') {
      throw new InvalidOptionError(
        `createScopes.resources.${name}`,
        resource,
        'a resource: postgres(…), or defineResource(…)',
      )
    }
  }
  return resources
}

function shuttingDown(what: string): OverloadedError {
  return new OverloadedError({ reason: 'shutdown', what })
}

/** Whether `work` settles within so many milliseconds; what it throws in that time is thrown. */
async function inTime(work: unknown, timeoutMs: number): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined
  const timeout = new Promise<false>((resolve) => {
    timer = setTimeout(resolve, timeoutMs, false)
  })
  try {
    return await Promise.race([Promise.resolve(work).then(() => true), timeout])
  } finally {
    clearTimeout(timer)
  }
}

function checkedRunOptions(options: RunOptions): ScopeInit {
  const read = new OptionReader('run', options).onlyKnown(['name', 'kind', 'id', 'timeoutMs', 'signal'])
  const name = read.string('name', undefined)
  if (name === undefined) throw new InvalidOptionError('run.name', undefined, 'a string that is not empty')
  if (options.signal !== undefined && !(options.signal instanceof AbortSignal)) {
    throw new InvalidOptionError('run.signal', options.signal, 'an AbortSignal')
  }
  return {
    name,
    id: read.string('id', undefined) ?? randomUUID(),
    kind: read.oneOf('kind', 'task', ['request', 'job', 'task']),
    timeoutMs: options.timeoutMs === undefined ? undefined : read.milliseconds('timeoutMs', 0, { min: 1 }),
  }
}

function cancelWith(signal: AbortSignal | undefined, scope: Scope): () => void {
  if (signal === undefined) return () => {}
  const cancel = () =>
    scope.cancel(new ScopeAbortedError({ scope: scope.describe(), reason: 'signal', cause: signal.reason }))
  if (signal.aborted) cancel()
  signal.addEventListener('abort', cancel, { once: true })
  return () => signal.removeEventListener('abort', cancel)
}

/** A subclass whose prototype has a getter for each resource, so that a scope pays nothing for handles it never uses. */
function scopeClassFor(slots: readonly { readonly name: string }[]): typeof Scope {
  class ScopeWithHandles extends Scope {}
  slots.forEach(({ name }, slot) => {
    Object.defineProperty(ScopeWithHandles.prototype, name, {
      get(this: Scope) {
        return this.handleOf(slot)
      },
      enumerable: true,
    })
  })
  return ScopeWithHandles
}
