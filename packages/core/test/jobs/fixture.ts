import { connect } from '@reqscope/services'
import { observer, type TestDatabase, testDatabase, testRedis } from '@reqscope/services/testing'
import { pgTable, text } from 'drizzle-orm/pg-core'
import type { Sql } from 'postgres'
import { onTestFinished } from 'vitest'
import { createScopes, type Scopes } from '../../src/index.ts'
import { type BullmqJobs, type BullmqOptions, bullmq } from '../../src/jobs/index.ts'
import { type BoundDatabase, type PostgresOptions, postgres } from '../../src/postgres/index.ts'
import type { Resource } from '../../src/scope/resource.ts'
import { type LogLine, memoryLogger } from '../memory-logger.ts'

export { failureOf, Gate } from '../gate.ts'

export const orders = pgTable('orders', { id: text('id').primaryKey() })
export const schema = { orders }
export type Database = BoundDatabase<typeof schema>
export type JobApp = Scopes<{ db: Resource<Database> }, BullmqJobs> & { readonly logs: LogLine[] }
export type JobDatabase = TestDatabase & { readonly watch: Sql }

/** A job's scope as the fixture's runtime opens it: the tests have no `Register`. */
export const withDb = (scope: unknown) => scope as { readonly db: Database }

export async function ordersDatabase(): Promise<JobDatabase> {
  const database = await testDatabase()
  const sql = connect(database.url)
  await sql`create table orders (id text primary key)`
  await sql.end()
  return { ...database, watch: observer(database) }
}

let prefixes = 0

/** A runtime on both servers, closed after the test; its queues are its own. */
export async function jobApp(
  database: { url: string },
  options: Partial<BullmqOptions> & { db?: Partial<PostgresOptions<typeof schema>>; closeTimeoutMs?: number } = {},
): Promise<JobApp> {
  const { logger, logs } = memoryLogger()
  const { db, closeTimeoutMs, ...given } = options
  const onRedis = {
    ...('connection' in given ? {} : { url: await testRedis() }),
    prefix: `test-${process.pid}-${++prefixes}`,
  }
  const jobs = bullmq({ ...(given.transport === 'postgres' ? {} : onRedis), ...given } as BullmqOptions)
  const resources = { db: postgres({ url: database.url, schema, max: 5, ...db }) }
  const scopes = createScopes({ resources, jobs, logger })
  onTestFinished(() => scopes.close({ timeoutMs: closeTimeoutMs ?? 2_000 }))
  await scopes.start()
  return Object.assign(scopes, { logs })
}

/** The ids of all orders that are committed. */
export async function ordersIn(database: { watch: Sql }): Promise<string[]> {
  const rows = await database.watch<{ id: string }[]>`select id from orders order by id`
  return rows.map(({ id }) => id)
}

/** Waits until `check` gives something, asking again and again; for what servers do on their own. */
export async function eventually<Value>(
  check: () => Value | undefined | false | Promise<Value | undefined | false>,
  timeoutMs = 10_000,
): Promise<Value> {
  const deadline = Date.now() + timeoutMs
  for (;;) {
    const value = await check()
    if (value !== undefined && value !== false) return value
    if (Date.now() > deadline) throw new Error('it did not happen in time')
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}
