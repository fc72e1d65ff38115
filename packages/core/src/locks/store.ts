import type { LockHolder, ScopeDescription } from '../errors.ts'
import type { Scope } from '../scope/scope.ts'
import type { Moment } from './clock.ts'

/** What a store is asked for. Options are checked, and keys sorted and distinct, before it is. */
export interface LockRequest {
  readonly keys: readonly string[]
  readonly ttlMs: number
  /** How long it may wait for the lock; 0 tries once. */
  readonly waitMs: number
  readonly mode: 'exclusive' | 'shared'
  /** How many shared holders there may be at once; undefined for any number. */
  readonly limit: number | undefined
  /** Ends the waiting when it fires: the store then rejects with the signal's reason and keeps nothing. Made when it is asked for. */
  readonly signal: AbortSignal | undefined
  /** The same without the price of a signal, for a store where thousands wait: whether it has fired, and why. */
  readonly isCancelled: boolean
  readonly cancelReason: unknown
  /** Told once when it fires, if a store sets it. */
  onCancel: { cancelled(): void } | undefined
  /** For whom, as other takers are told; undefined outside of every scope. */
  readonly holder: ScopeDescription | undefined
  /** The scope that asks, for a store that works with its connections. */
  readonly scope: Scope | undefined
}

/** A lock that was had. */
export interface LockGrant {
  readonly tag: 'granted'
  readonly keys: readonly string[]
  /** The store's own name of this hold. */
  readonly token: string
  /** Greater than that of every earlier exclusive hold of each of the keys; undefined for shared ones. */
  readonly fence: number | undefined
  /** A moment that is not after the one from which the store counts the lease. */
  readonly since: Moment
  /** How long the lease lasts, in milliseconds. */
  readonly leaseMs: number
  /** Ends with the lock, without notice by the store: where a lock hangs on a connection. */
  readonly lost?: AbortSignal | undefined
}

/** It was not free within the time to wait. */
export interface LockRefusal {
  readonly tag: 'held'
  readonly holder: LockHolder | undefined
}

/**
 * Keeps locks. Reqscope brings one for Redis and one for Postgres; another one goes to `createScopes({ locks: { store } })`.
 * Whatever a store throws, except the reason of a signal that fired, is reported as LockUnavailableError.
 */
export interface LockStore {
  /** For messages: `redis`. */
  readonly name: string
  /** What it can do; the rest is refused with InvalidOptionError before it is asked. */
  readonly supports: { readonly shared: boolean; readonly severalKeys: boolean }
  /** Whether it takes locks for scopes only; `withLock` then opens one. */
  readonly needsScope?: boolean
  acquire(request: LockRequest): Promise<LockGrant | LockRefusal>
  /** Makes the lease last at least `leaseMs` from now on; false when the store knows that it is not held any more. */
  renew(grant: LockGrant, leaseMs: number): Promise<boolean>
  /** Gives back what is still owned, and touches nothing else. */
  release(grant: LockGrant): Promise<void>
  /** Lets go of connections of its own. Nothing is held any more. */
  close?(): void | Promise<void>
}
