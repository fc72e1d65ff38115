import { InvalidOptionError, isReqscopeError, LockTimeoutError, LockUnavailableError } from '../errors.ts'
import type { AnyLock, Locker, LockKeys, LockOptions, ManualRelease } from '../scope/locker.ts'
import type { Logger } from '../scope/logger.ts'
import { assertUsable } from '../scope/ownership.ts'
import type { Scope } from '../scope/scope.ts'
import { type Clock, elapsedMs, processClock } from './clock.ts'
import { Hold, type HoldHost } from './hold.ts'
import { checkLockKeys, checkLockOptions, type LockConfig } from './options.ts'
import { LocksOfScope, ScopedHold } from './scope-locks.ts'
import type { LockGrant, LockRefusal, LockRequest, LockStore } from './store.ts'

/** All locks of one runtime. */
export class Locks implements Locker {
  readonly #host: HoldHost
  readonly #hasStore: boolean
  /** Those that are under way, and of what. */
  readonly #releases = new Map<Promise<void>, readonly string[]>()

  constructor(store: LockStore | undefined, logger: () => Logger, clock: Clock = processClock) {
    this.#hasStore = store !== undefined
    const releases = this.#releases
    this.#host = {
      store: store as LockStore,
      clock,
      get logger() {
        return logger()
      },
      releasing(release, keys) {
        releases.set(release, keys)
        void release.then(() => releases.delete(release))
      },
    }
  }

  async lock<Result>(
    scope: Scope,
    keys: LockKeys,
    options: LockOptions,
    fn: (lock: AnyLock) => Result | Promise<Result>,
  ): Promise<Result> {
    checkFunction(fn)
    const { locks, held } = await this.#enter(scope, keys, options, false)
    return locks.run(held, fn)
  }

  async acquire(scope: Scope, keys: LockKeys, options: LockOptions): Promise<AnyLock & ManualRelease> {
    const { locks, held } = await this.#enter(scope, keys, options, true)
    return locks.handle(held)
  }

  async tryAcquire(scope: Scope, keys: LockKeys, options: LockOptions): Promise<(AnyLock & ManualRelease) | undefined> {
    if (options.waitMs !== undefined) {
      throw new InvalidOptionError('lock.waitMs', options.waitMs, 'left out of tryLock, which never waits')
    }
    try {
      return await this.acquire(scope, keys, { ...options, waitMs: 0 })
    } catch (error) {
      if (error instanceof LockTimeoutError) return undefined
      throw error
    }
  }

  get needsScope(): boolean {
    return this.#hasStore && this.#host.store.needsScope === true
  }

  /** Runs `fn` under a lock that belongs to no scope. */
  async withLock<Result>(
    keys: LockKeys,
    options: LockOptions,
    fn: (lock: AnyLock) => Result | Promise<Result>,
  ): Promise<Result> {
    checkFunction(fn)
    const config = checkLockOptions(options)
    const request = new Request(checkLockKeys(keys), config, undefined, () => config.signal)
    const hold = new Hold(this.#host, await this.#granted(request), config, undefined)
    try {
      refuseIfLost(hold)
      const result = await fn(hold)
      const lost = hold.lostError
      if (lost !== undefined) throw lost
      return result
    } finally {
      void hold.release()
    }
  }

  /** Waits for what is being released, and lets go of the store's connections. */
  async close(): Promise<void> {
    await Promise.all(this.#releases.keys())
    if (this.#hasStore) await this.#host.store.close?.()
  }

  async #enter(
    scope: Scope,
    keys: LockKeys,
    options: LockOptions,
    isManual: boolean,
  ): Promise<{ locks: LocksOfScope; held: ScopedHold }> {
    const config = checkLockOptions(options)
    const checked = checkLockKeys(keys)
    assertUsable(scope, 'lock', undefined)
    let locks = scope.locks as LocksOfScope | undefined
    if (locks !== undefined) {
      const held = await locks.enterHeld(checked, config)
      if (held !== undefined) return { locks, held }
    }
    locks = (scope.locks as LocksOfScope | undefined) ?? new LocksOfScope(scope)
    const hold = await this.#hold(scope, locks, checked, config)
    const held = new ScopedHold(hold, config.limit === undefined ? config.mode : 'shared', isManual)
    // While it waited, others of the scope may have come and gone.
    if (scope.locks !== locks) {
      if (scope.locks === undefined) scope.locks = locks
      else locks = scope.locks as LocksOfScope
    }
    locks.add(held)
    return { locks, held }
  }

  async #hold(scope: Scope, locks: LocksOfScope, keys: readonly string[], config: LockConfig): Promise<Hold> {
    let waiting: AbortController | undefined
    const request = new Request(keys, config, scope, () => {
      waiting = locks.startWaiting()
      if (scope.cancelReason !== undefined) waiting.abort(scope.cancelReason)
      return config.signal === undefined ? waiting.signal : AbortSignal.any([config.signal, waiting.signal])
    })
    let hold: Hold
    try {
      hold = new Hold(this.#host, await this.#granted(request), config, scope)
    } finally {
      locks.doneWaiting(waiting)
    }
    try {
      assertUsable(scope, 'lock', undefined) // it may have ended while it waited
      refuseIfLost(hold)
    } catch (error) {
      void hold.release()
      throw error
    }
    return hold
  }

  async #granted(request: Request): Promise<LockGrant> {
    const { store, clock } = this.#storeFor(request)
    const startedAt = clock.now()
    let answer: LockGrant | LockRefusal
    try {
      answer = await store.acquire(request)
      // Nobody waits for a release; so it may not have arrived when whoever gave the lock back tries to have it again.
      if (answer.tag === 'held' && request.waitMs === 0 && (await this.#released(request.keys))) {
        answer = await store.acquire(request)
      }
    } catch (cause) {
      if (request.isAborted(cause) || (isReqscopeError(cause) && PASSED_ON.has(cause.code))) throw cause
      throw new LockUnavailableError({ keys: request.keys, store: store.name, cause })
    }
    if (answer.tag === 'granted') return answer
    const { holder } = answer
    const waitedMs = elapsedMs(startedAt, clock.now())
    const bySameScope = holder?.scopeId !== undefined && holder.scopeId === request.holder?.id
    throw new LockTimeoutError({ keys: request.keys, waitedMs, holder, bySameScope })
  }

  /** Waits for releases of these keys that are under way; false where there are none. */
  async #released(keys: readonly string[]): Promise<boolean> {
    const underWay = [...this.#releases].filter(([, released]) => released.some((key) => keys.includes(key)))
    await Promise.all(underWay.map(([release]) => release))
    return underWay.length > 0
  }

  #storeFor({ keys, mode, limit }: LockRequest): HoldHost {
    if (!this.#hasStore) {
      throw new InvalidOptionError(
        'createScopes.locks.store',
        undefined,
        'given, or one of the resources a redis(…) or a postgres(…): locks need a store',
      )
    }
    const { name, supports } = this.#host.store
    if (keys.length > 1 && !supports.severalKeys) {
      throw new InvalidOptionError('lock.keys', keys, `a single key: the store (${name}) keeps no others`)
    }
    if ((mode === 'shared' || limit !== undefined) && !supports.shared) {
      const option = limit === undefined ? 'lock.mode' : 'lock.limit'
      throw new InvalidOptionError(option, limit ?? mode, `left out: the store (${name}) keeps exclusive locks only`)
    }
    return this.#host
  }
}

/** Errors that say more than that the store is unavailable. */
const PASSED_ON: ReadonlySet<string> = new Set([
  'RSC_INVALID_OPTION',
  'RSC_POOL_EXHAUSTED',
  'RSC_SCOPE_ENDED',
  'RSC_SCOPE_ABORTED',
  'RSC_DEADLINE_EXCEEDED',
  'RSC_TRANSACTION_ENDED',
  'RSC_LOCK_LOST',
])

/** Its signal is made when the store asks for it, which it does only when it has to wait. */
class Request implements LockRequest {
  readonly keys: readonly string[]
  readonly ttlMs: number
  readonly waitMs: number
  readonly mode: 'exclusive' | 'shared'
  readonly limit: number | undefined
  readonly scope: Scope | undefined
  readonly #makeSignal: () => AbortSignal | undefined
  #signal: AbortSignal | undefined
  #hasSignal = false

  constructor(
    keys: readonly string[],
    config: LockConfig,
    scope: Scope | undefined,
    makeSignal: () => AbortSignal | undefined,
  ) {
    this.keys = keys
    this.ttlMs = config.ttlMs
    this.waitMs = config.waitMs
    this.mode = config.mode
    this.limit = config.limit
    this.scope = scope
    this.#makeSignal = makeSignal
  }

  get holder(): Scope | undefined {
    return this.scope
  }

  get signal(): AbortSignal | undefined {
    if (!this.#hasSignal) {
      this.#hasSignal = true
      this.#signal = this.#makeSignal()
    }
    return this.#signal
  }

  isAborted(error: unknown): boolean {
    return this.#hasSignal && this.#signal?.aborted === true && this.#signal.reason === error
  }
}

/** The answer may have taken longer than the lease lasts. */
function refuseIfLost(hold: Hold): void {
  const lost = hold.lostError
  if (lost !== undefined) throw lost
}

function checkFunction(fn: unknown): void {
  if (typeof fn !== 'function') throw new InvalidOptionError('lock.fn', fn, 'a function')
}
