import { InvalidOptionError, isReqscopeError, LockTimeoutError, LockUnavailableError } from '../errors.ts'
import type { AnyLock, Locker, LockKeys, LockOptions, ManualRelease } from '../scope/locker.ts'
import type { Logger } from '../scope/logger.ts'
import { assertUsable } from '../scope/ownership.ts'
import type { Scope } from '../scope/scope.ts'
import { Alarms } from './alarms.ts'
import { type Clock, elapsedMs, processClock } from './clock.ts'
import { Hold, type HoldHost } from './hold.ts'
import { checkLockKeys, checkLockOptions } from './options.ts'
import { Request } from './request.ts'
import { LocksOfScope } from './scope-locks.ts'
import { ScopedHold } from './scoped-hold.ts'
import type { LockGrant, LockRefusal, LockRequest, LockStore } from './store.ts'

/** All locks of one runtime. */
export class Locks implements Locker {
  readonly #host: HoldHost
  readonly #hasStore: boolean
  /** Whose release is under way. */
  readonly #releasing = new Set<Hold>()

  constructor(store: LockStore | undefined, logger: () => Logger, clock: Clock = processClock) {
    this.#hasStore = store !== undefined
    this.#host = {
      store: store as LockStore,
      clock,
      alarms: new Alarms(),
      releasing: this.#releasing,
      get logger() {
        return logger()
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
    return await locks.run(held, fn)
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
    const request = new Request(checkLockKeys(keys), config, undefined)
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
    await Promise.all(Array.from(this.#releasing, (hold) => hold.release()))
    this.#host.alarms.close()
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
    const request = new Request(checked, config, scope)
    locks.startWaiting(request)
    let hold: Hold
    try {
      hold = new Hold(this.#host, await this.#granted(request), config, scope)
    } finally {
      locks.doneWaiting(request)
    }
    try {
      assertUsable(scope, 'lock', undefined) // it may have ended while it waited
      refuseIfLost(hold)
    } catch (error) {
      void hold.release()
      throw error
    }
    const held = new ScopedHold(scope, hold, config.limit === undefined ? config.mode : 'shared', isManual)
    // While it waited, others of the scope may have come and gone.
    if (scope.locks !== locks) {
      if (scope.locks === undefined) scope.locks = locks
      else locks = scope.locks as LocksOfScope
    }
    locks.add(held)
    return { locks, held }
  }

  async #granted(request: Request): Promise<LockGrant> {
    const { store, clock } = this.#storeFor(request)
    const startedAt = clock.now()
    let answer: LockGrant | LockRefusal
    request.begin()
    try {
      answer = await store.acquire(request)
      // Nobody waits for a release; so it may not have arrived when whoever gave the lock back tries to have it again.
      if (answer.tag === 'held' && request.waitMs === 0 && (await this.#released(request.keys))) {
        answer = await store.acquire(request)
      }
    } catch (cause) {
      if (
        (request.isCancelled && request.cancelReason === cause) ||
        (isReqscopeError(cause) && PASSED_ON.has(cause.code))
      )
        throw cause
      throw new LockUnavailableError({ keys: request.keys, store: store.name, cause })
    } finally {
      request.over()
    }
    if (answer.tag === 'granted') return answer
    const { holder } = answer
    const waitedMs = elapsedMs(startedAt, clock.now())
    const bySameScope = holder?.scopeId !== undefined && holder.scopeId === request.holder?.id
    throw new LockTimeoutError({ keys: request.keys, waitedMs, holder, bySameScope })
  }

  /** Waits for releases of these keys that are under way; false where there are none. */
  async #released(keys: readonly string[]): Promise<boolean> {
    const underWay = [...this.#releasing].filter((hold) => hold.keys.some((key) => keys.includes(key)))
    await Promise.all(underWay.map((hold) => hold.release()))
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

/** The answer may have taken longer than the lease lasts. */
function refuseIfLost(hold: Hold): void {
  const lost = hold.lostError
  if (lost !== undefined) throw lost
}

function checkFunction(fn: unknown): void {
  if (typeof fn !== 'function') throw new InvalidOptionError('lock.fn', fn, 'a function')
}
