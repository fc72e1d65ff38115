import { randomBytes } from 'node:crypto'
import postgres from 'postgres'
import { eventually } from './deadline.ts'

export interface Database {
  url: string
  name: string
  /** Drops it, and whoever is still connected to it. */
  drop(): Promise<void>
}

/** One plain connection for set-up work and for looking at a server from outside. */
export function connect(url: string, applicationName = 'reqscope-services'): postgres.Sql {
  const ssl = new URL(url).searchParams.has('sslmode') ? {} : ({ ssl: 'prefer' } as const)
  return postgres(url, {
    ...ssl,
    max: 1,
    connect_timeout: 5,
    fetch_types: false,
    onnotice: () => {},
    connection: { application_name: applicationName },
  })
}

/** A database of its own, copied from `template` (default: `template1`, which is empty). */
export async function createDatabase(
  server: { url: string } | string,
  {
    template = 'template1',
    name = `test_${randomBytes(6).toString('hex')}`,
  }: { template?: string; name?: string } = {},
): Promise<Database> {
  const serverUrl = typeof server === 'string' ? server : server.url
  await administer(serverUrl, (sql) =>
    // A template that somebody is connected to cannot be copied: autovacuum and other set-ups leave it in a moment.
    eventually(() => sql`create database ${sql(name)} template ${sql(template)}`, {
      everyMs: 50,
      retryable: (error) => (error as { code?: string }).code === '55006',
    }),
  )
  const url = new URL(serverUrl)
  url.pathname = `/${name}`
  return {
    url: url.href,
    name,
    drop: () => administer(serverUrl, (sql) => sql`drop database if exists ${sql(name)} with (force)`),
  }
}

async function administer(url: string, work: (sql: postgres.Sql) => Promise<unknown>): Promise<void> {
  const sql = connect(url)
  try {
    await work(sql)
  } finally {
    await sql.end({ timeout: 5 })
  }
}
