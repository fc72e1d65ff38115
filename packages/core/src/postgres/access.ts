import type { Socket } from 'node:net'
import type { Scope } from '../scope/scope.ts'

/** How an advisory lock is asked for. */
export interface AdvisoryRequest {
  /** The lock's number, as a decimal bigint. */
  readonly lock: string
  /** How long to wait for it, in milliseconds; 0 tries once. */
  readonly waitMs: number
  /** Ends the waiting. */
  readonly signal: AbortSignal | undefined
}

/** An advisory lock that is held. */
export interface AdvisoryHold {
  /** The server's clock when it was had, in µs. */
  readonly atUs: number
  /** Fires when the server has let go of it: the connection was lost, or the savepoint it was taken in rolled back. */
  readonly lost: AbortSignal
  /** Whether the server still answers on its connection; at once where the lock belongs to a transaction. */
  isHeld(): Promise<boolean>
  /** Does nothing where it belongs to a transaction, whose end releases it. */
  release(): Promise<void>
}

/** What locks use of a Postgres resource. */
export interface AdvisoryAccess {
  /** How many connections locks may occupy, holding and waiting: half of the pool. */
  readonly maxConnections: number
  isInTransaction(scope: Scope): boolean
  /** In the scope's transaction around; undefined when it was not free in time. */
  lockInTransaction(scope: Scope, request: AdvisoryRequest): Promise<AdvisoryHold | undefined>
  /** On a connection of its own, leased to the scope; undefined when it was not free in time. */
  lockOnConnection(scope: Scope, request: AdvisoryRequest): Promise<AdvisoryHold | undefined>
}

/** Where a Postgres resource keeps its {@link AdvisoryAccess}. */
export const advisoryAccess: unique symbol = Symbol.for('reqscope.advisory-access') as never

/** Undefined for a resource that is not Postgres. */
export function advisoryAccessOf(resource: unknown): AdvisoryAccess | undefined {
  return (resource as { readonly [advisoryAccess]?: AdvisoryAccess } | null | undefined)?.[advisoryAccess]
}

/** How to reach the server a resource is connected to, for a client of another library. */
export interface PostgresTarget {
  readonly user: string
  readonly database: string
  readonly password: string | (() => string | Promise<string>) | undefined
  /** Where it is, for messages. */
  readonly place: string
  /** Opens a connection to the first of its hosts that takes it, with TLS where that is asked for: ready for the startup. */
  openSocket(timeoutMs: number): Promise<Socket>
}

/** What jobs use of a Postgres resource. */
export interface PostgresAccess {
  /** The name the resource has in its runtime. */
  readonly name: string
  /** Whether the code that runs now is in a transaction of this scope. */
  inTransaction(scope: Scope): boolean
  /** Runs a statement where the scope's own would run: in the transaction around, or on the scope's lease. */
  query(scope: Scope, text: string, parameters: readonly unknown[]): Promise<readonly Record<string, unknown>[]>
  target(): PostgresTarget
}

/** Where a Postgres resource keeps its {@link PostgresAccess}. */
export const postgresAccess: unique symbol = Symbol.for('reqscope.postgres-access') as never

/** Undefined for a resource that is not Postgres. */
export function postgresAccessOf(resource: unknown): PostgresAccess | undefined {
  return (resource as { readonly [postgresAccess]?: PostgresAccess } | null | undefined)?.[postgresAccess]
}
