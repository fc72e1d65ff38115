import type { ReqscopeError } from '../errors.ts'
import type { Context } from './current.ts'
import type { Scope } from './scope.ts'

/** How a lock is taken. */
export interface LockOptions {
  /** How long the lease lasts without being renewed, in milliseconds. Default 30,000, at least 100. */
  readonly ttlMs?: number
  /** How long to wait for the lock, in milliseconds; 0 tries once. Default 5,000. */
  readonly waitMs?: number
  /** Whether the lease is renewed while it is held. Default true. */
  readonly autoExtend?: boolean
  /** After how many milliseconds it is renewed no more, and so is lost. Default: never. */
  readonly maxHoldMs?: number
  /** `'shared'` for readers: many at once, and none beside an exclusive holder. Default `'exclusive'`. */
  readonly mode?: 'exclusive' | 'shared'
  /** Makes it a semaphore: so many holders at once. Everybody who uses the key must give the same number. */
  readonly limit?: number
  /** Lets a parallel branch of the same scope in, too; code inside the lock's function is always let in. Default false. */
  readonly reentrant?: boolean
  /** Ends the waiting when it fires. The scope's own cancellation always does. */
  readonly signal?: AbortSignal
}

/** One key, or several that are had all or not at all. */
export type LockKeys = string | readonly string[]

/** A lock while it is held, of whatever mode. */
export interface AnyLock {
  /** The key; of several the first. */
  readonly key: string
  readonly keys: readonly string[]
  /** Grows with every exclusive holder of a key; undefined for shared locks and semaphores. */
  readonly fence: number | undefined
  /** Fires with a LockLostError at the turn of the loop after the lock was lost. */
  readonly signal: AbortSignal
  /** Until when it is valid by this process's own clock unless it is renewed, in milliseconds since the epoch. */
  readonly expiresAt: number
  /**
   * Makes the lease last at least `ms` milliseconds from now on.
   *
   * @throws LockLostError when it was lost.
   * @throws LockUnavailableError when the store can't be reached; the lock is still held until `expiresAt`.
   */
  extend(ms: number): Promise<void>
}

/** An exclusive lock while it is held. */
export interface Lock extends AnyLock {
  readonly fence: number
}

/** A shared lock, or a place in a semaphore, while it is held. */
export interface SharedLock extends AnyLock {
  readonly fence: undefined
}

/** What the options of a lock make of it. */
export type LockFor<Options> = Options extends { readonly mode: 'shared' } | { readonly limit: number }
  ? SharedLock
  : Lock

/** Released by `release()`, or by `await using`. */
export interface ManualRelease {
  /** Gives the lock back, once; never rejects: a failure is logged, and the lease ends by itself. */
  release(): Promise<void>
  [Symbol.asyncDispose](): Promise<void>
}

/** What scopes need of the feature; `createScopes` fills it in. */
export interface Locker {
  lock<Result>(
    scope: Scope,
    keys: LockKeys,
    options: LockOptions,
    fn: (lock: AnyLock) => Result | Promise<Result>,
  ): Promise<Result>
  /** Undefined when it is held by somebody else. */
  tryAcquire(scope: Scope, keys: LockKeys, options: LockOptions): Promise<(AnyLock & ManualRelease) | undefined>
  acquire(scope: Scope, keys: LockKeys, options: LockOptions): Promise<AnyLock & ManualRelease>
}

/** The locks that one scope holds or waits for; a scope that has none has no such object. */
export interface ScopeLocks {
  /** What a statement from here is refused with: a lock it stands under was lost. */
  refusal(context: Context | undefined): ReqscopeError | undefined
  /** Its scope was cancelled: waiting ends. */
  cancelled(reason: ReqscopeError): void
  /** Its scope has ended and its handles are released: what is still held is given back, and reported. */
  end(): Promise<void>
}

/** What a lock that was taken inside a transaction has to do with it. */
export interface TransactionBond {
  /** Asked right before the COMMIT: what it returns refuses it. */
  obstacle(): Error | undefined
  /** Told once, when the transaction has ended, in whatever way. */
  ended(): void
}
