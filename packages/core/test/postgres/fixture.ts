import { connect } from '@reqscope/services'
import { type ChaosProxy, startChaosProxy } from '@reqscope/services/chaos-proxy'
import { observer, type TestDatabase, testDatabase } from '@reqscope/services/testing'
import { integer, pgTable, serial, text } from 'drizzle-orm/pg-core'
import type { Sql } from 'postgres'
import { onTestFinished } from 'vitest'
import { createScopes, type Scopes } from '../../src/index.ts'
import { type BoundDatabase, type PostgresOptions, postgres } from '../../src/postgres/index.ts'
import type { Resource } from '../../src/scope/resource.ts'
import { type LogLine, memoryLogger } from '../memory-logger.ts'

export { failureOf, Gate } from '../gate.ts'

export const accounts = pgTable('accounts', {
  id: serial('id').primaryKey(),
  owner: text('owner').notNull(),
  balance: integer('balance').notNull().default(0),
})

export const schema = { accounts }

export type Database = BoundDatabase<typeof schema>
export type App = Scopes<{ db: Resource<Database> }> & { readonly logs: LogLine[] }

/** A database with the fixture's tables and nothing in them, for the file that asks at its top level. */
export async function accountsDatabase(): Promise<TestDatabase & { watch: Sql }> {
  const database = await testDatabase()
  const sql = connect(database.url)
  await sql`create table accounts (id serial primary key, owner text not null, balance integer not null default 0)`
  await sql.end()
  return { ...database, watch: observer(database) }
}

/** A runtime whose scopes have a `db`, closed after the test; what it logs is kept. */
export function appOn(
  database: { url: string } | string,
  options: Partial<PostgresOptions<typeof schema>> = {},
  more: { closeTimeoutMs?: number } = {},
): App {
  const url = typeof database === 'string' ? database : database.url
  const { logger, logs } = memoryLogger()
  // Many a test repeats a statement on purpose, and looks at what is logged.
  const repeatedStatements = { mode: 'event' } as const
  const db = postgres({ url, schema, repeatedStatements, ...options })
  const scopes = createScopes({ resources: { db }, logger })
  onTestFinished(() => scopes.close({ timeoutMs: more.closeTimeoutMs ?? 1_000 }))
  return Object.assign(scopes, { logs })
}

/** A proxy in front of the database's server, closed after the test. */
export async function proxyTo(database: { url: string }): Promise<ChaosProxy> {
  const proxy = await startChaosProxy({ target: database.url })
  onTestFinished(() => proxy.close())
  return proxy
}

/** The server's process that runs the scope's statements. */
export async function backendOf(scope: { db: { $client: Sql } }): Promise<number> {
  const [row] = await scope.db.$client<{ pid: number }[]>`select pg_backend_pid() as pid`
  return row?.pid ?? 0
}

export interface BackendActivity {
  readonly pid: number
  readonly state: string
  readonly query: string
}

/** The backends of the database as the server sees them, without the observer's own. */
export async function backendsOf(database: { name: string; watch: Sql }): Promise<BackendActivity[]> {
  return database.watch<BackendActivity[]>`
    select pid, state, query from pg_stat_activity
    where datname = ${database.name} and backend_type = 'client backend' and application_name <> 'observer'
    order by backend_start`
}

/** The owners of all accounts that are committed, in the order they were inserted. */
export async function ownersIn(database: { watch: Sql }): Promise<string[]> {
  const rows = await database.watch<{ owner: string }[]>`select owner from accounts order by id`
  return rows.map(({ owner }) => owner)
}
