import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { connect } from '@reqscope/services'
import { testDatabase, testRedis } from '@reqscope/services/testing'
import { expect, it } from 'vitest'
import { compiled } from './compiled.ts'

const PROCESSES = 4
const SESSIONS = 10
const APPENDS = 2_000

const database = await testDatabase()

/** How many of the messages are there in the end. */
async function replay(lock: 'reqscope' | 'mutex'): Promise<number> {
  const program = await compiled(new URL('incident-4-app.ts', import.meta.url))
  const sql = connect(database.url)
  try {
    await sql`create table if not exists chat_sessions (id text primary key, messages jsonb not null)`
    await sql`truncate chat_sessions`
    for (let index = 0; index < SESSIONS; index++) await sql`insert into chat_sessions values (${`s${index}`}, '[]')`
    const shared = { redis: await testRedis(), postgres: database.url, sessions: SESSIONS, lock }
    const apps = Array.from({ length: PROCESSES }, (_, index) => {
      const options = { ...shared, name: `app${index}`, appends: APPENDS / PROCESSES }
      return spawn(process.execPath, [program, JSON.stringify(options)], { stdio: ['pipe', 'pipe', 'inherit'] })
    })
    await Promise.all(apps.map(({ stdout }) => once(stdout, 'data')))
    const ended = apps.map((app) => once(app, 'exit'))
    for (const { stdin } of apps) stdin.write('go\n')
    expect(await Promise.all(ended)).toEqual(apps.map(() => [0, null]))
    const [row] = await sql<{ count: number }[]>`
      select count(distinct message)::int as count from chat_sessions, jsonb_array_elements_text(messages) as message`
    return row?.count ?? 0
  } finally {
    await sql.end({ timeout: 1 })
  }
}

it('4 processes that append 2,000 messages to 10 chat sessions through @Locked lose none', async () => {
  expect(await replay('reqscope')).toBe(APPENDS)
}, 60_000)

it('the same through a lock that only one instance sees loses some', async () => {
  expect(await replay('mutex')).toBeLessThan(APPENDS)
}, 60_000)
