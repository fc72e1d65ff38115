import type { Scope } from '../scope/scope.ts'

/** How to reach the server a resource is connected to, for a client of another library. */
export interface PostgresTarget {
  readonly host: string
  readonly port: number
  readonly user: string
  readonly database: string
  readonly password: string | (() => string | Promise<string>) | undefined
  readonly ssl: boolean | object
}

/** What jobs use of a Postgres resource. */
export interface PostgresAccess {
  /** The name the resource has in its runtime. */
  readonly name: string
  /** Whether the code that runs now is in a transaction of this scope. */
  inTransaction(scope: Scope): boolean
  /** Runs a statement where the scope's own would run: in the transaction around, or on the scope's lease. */
  query(scope: Scope, text: string, parameters: readonly unknown[]): Promise<readonly Record<string, unknown>[]>
  /** @throws InvalidOptionError where the resource's TLS mode is one that other libraries do not know. */
  target(): PostgresTarget
}

/** Where a Postgres resource keeps its {@link PostgresAccess}. */
export const postgresAccess: unique symbol = Symbol.for('reqscope.postgres-access') as never

/** Undefined for a resource that is not Postgres. */
export function postgresAccessOf(resource: unknown): PostgresAccess | undefined {
  return (resource as { readonly [postgresAccess]?: PostgresAccess } | null | undefined)?.[postgresAccess]
}
