import type { Outcome } from './cleanup-stack.ts'
import type { Ledger } from './ledger.ts'
import type { TransactionBond } from './locker.ts'
import type { Logger } from './logger.ts'
import type { Scope } from './scope.ts'

/** What a resource is told when its runtime starts it. */
export interface ResourceContext {
  /** The name it has among the runtime's resources, for messages: `db`. */
  readonly name: string
  readonly logger: Logger
}

/** A resource's own word on how it is; whatever else it says is passed on in `scopes.health()`. */
export interface ResourceHealth {
  readonly status: 'up' | 'degraded' | 'down'
  readonly [fact: string]: unknown
}

/**
 * Something scopes hand out handles of: opened with the application, closed with it.
 *
 * Made by `postgres(…)` and the like, or by `defineResource` for the user's own.
 */
export interface Resource<Handle> {
  /** Called once, when the runtime is created; nothing may be opened yet. */
  attach?(runtime: { readonly name: string; readonly ledger: Ledger; readonly logger: () => Logger }): void
  /** Opens it. A failure here is the application's failure to start. */
  start(context: ResourceContext): void | Promise<void>
  /** Closes it, within `timeoutMs` milliseconds. No scope is open any more. */
  stop(context: { readonly timeoutMs: number }): void | Promise<void>
  /** Makes the handle of one scope, on its first use. Must be cheap, and must not open anything yet. */
  handle(scope: Scope): Handle
  /**
   * Whether `release` is the user's code, so that it counts as a clean-up: the scope's handles still work in it, and those
   * of resources without this mark, which lend connections, are released after it.
   */
  readonly releasesAsCleanup?: boolean
  /** Called once for every handle that was made, when its scope ends, after the scope's own clean-ups. */
  release(handle: Handle, scope: Scope, outcome: Outcome): void | Promise<void>
  /** Cancels what runs on behalf of the handle: its client has gone, or its deadline has passed. */
  cancel?(handle: Handle, scope: Scope, reason: Error): void
  /** How long who asks now would wait for a connection, as far as can be told, in milliseconds. */
  /** What a scope did with it: counts and times, for its summary. */
  summary?(handle: Handle): object
  expectedWaitMs?(): number
  health(): ResourceHealth | Promise<ResourceHealth>
}

// biome-ignore lint/suspicious/noExplicitAny: a resource of whatever handle
export type AnyResource = Resource<any>

export type Resources = Readonly<Record<string, AnyResource>>

/** The type of the handle that scopes hand out for a resource. */
export type HandleOf<R> = R extends Resource<infer Handle> ? Handle : never

/** How a transaction is to be had; see `scope.transaction`. */
export interface TransactionOptions {
  /**
   * What to do when there is a transaction around already. `required` (default) joins it, `requiresNew` starts an
   * independent one on another connection, `nested` makes a savepoint, `notSupported` runs outside of any.
   */
  readonly propagation?: 'required' | 'requiresNew' | 'nested' | 'notSupported'
  /** The outermost transaction's isolation level; the server's default otherwise. */
  readonly isolationLevel?: 'read uncommitted' | 'read committed' | 'repeatable read' | 'serializable'
  readonly accessMode?: 'read only' | 'read write'
  readonly deferrable?: boolean
  /** How often the function is run again after a serialization failure (40001) or a deadlock (40P01). Default 0. */
  readonly retries?: number
  /** The resource's name, where the runtime has several that know transactions. */
  readonly resource?: string
}

/** A transaction that is ended by hand, for an adapter that commits before the response head. */
export interface ManualTransaction {
  /** Runs `fn` inside the transaction. */
  run<Result>(fn: () => Result): Result
  commit(): Promise<void>
  rollback(): Promise<void>
  readonly state: 'open' | 'ending' | 'ended'
}

/** What a resource must offer so that `scope.transaction`, `afterCommit` and transactional routes work with it. */
export interface TransactionalResource {
  transaction<Result>(scope: Scope, options: TransactionOptions, fn: () => Result | Promise<Result>): Promise<Result>
  openTransaction(scope: Scope, options: TransactionOptions): ManualTransaction
  /** Registers `fn` with the transaction that is around, or returns false when there is none. */
  afterCommit(scope: Scope, fn: () => unknown): boolean
  /** Ties something to the outermost transaction around; returns its identity, or undefined where there is none. */
  tie?(scope: Scope, bond: TransactionBond): object | undefined
  /** The outermost transaction around, as `tie` names it. */
  transactionAround?(scope: Scope): object | undefined
}

export function isTransactional(resource: unknown): resource is TransactionalResource {
  return typeof (resource as Partial<TransactionalResource>).openTransaction === 'function'
}
