import type { Sql } from 'postgres'
import { afterAll, onTestFinished } from 'vitest'
import { startPostgres } from './postgres.ts'
import { connect, createDatabase, type Database } from './postgres-database.ts'
import { startRedis } from './redis.ts'
import { SHARED } from './shared-servers.ts'

export type TestDatabase = Database

/** The superuser's URL of the run's Postgres server. Without the run's set-up, one is started for this process. */
export async function testServer(): Promise<string> {
  process.env[SHARED.postgres] ??= (await startPostgres()).url
  return process.env[SHARED.postgres] as string
}

/**
 * The URL of the run's Redis. Every file shares it, so use keys of your own; who needs it empty, killed or durable starts
 * one with `startRedis({ own: true })`, which takes milliseconds.
 */
export async function testRedis(): Promise<string> {
  process.env[SHARED.redis] ??= (await startRedis()).url
  return process.env[SHARED.redis] as string
}

/** A fresh, empty database for the test that asks, or for its file when asked outside tests; dropped when that is over. */
export async function testDatabase(options?: { template?: string; name?: string }): Promise<TestDatabase> {
  const database = await createDatabase(await testServer(), options)
  whenOver(() => database.drop())
  return database
}

/** A superuser's connection beside those under test, to look at pg_stat_activity or to kill a backend. */
export function observer(database: { url: string } | string): Sql {
  const sql = connect(typeof database === 'string' ? database : database.url, 'observer')
  whenOver(() => sql.end({ timeout: 1 }))
  return sql
}

const whenTheFileIsOver: (() => Promise<unknown>)[] = []

// Registered once, when the file imports this module: inside a `beforeAll` it would be too late.
afterAll(async () => {
  for (const cleanUp of whenTheFileIsOver.reverse()) await cleanUp()
})

/** After the current test, or after all tests of the file when none runs (at the top level, in `beforeAll`). */
function whenOver(cleanUp: () => Promise<unknown>): void {
  try {
    onTestFinished(async () => void (await cleanUp()))
  } catch {
    whenTheFileIsOver.push(cleanUp)
  }
}
