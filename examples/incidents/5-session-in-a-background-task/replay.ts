import { setTimeout as delay } from 'node:timers/promises'
import { connect } from '@reqscope/services'
import { ask } from '../src/http.ts'
import type { Incident, Point } from '../src/incident.ts'

const WEBHOOKS = 75
const POINTS = 15
const QUIET_WITHIN_MS = 10_000

/** A webhook changes a product and has a task tell the search index. */
export const sessionInABackgroundTask: Incident = {
  number: 5,
  title: 'A request’s session inside a background task',
  folder: new URL('.', import.meta.url),
  axes: { x: 'webhooks', y: 'sessions idle in a transaction' },

  async replay([app], { databaseUrl }) {
    if (app === undefined) throw new Error('there is no application')
    const sql = connect(databaseUrl, 'observer')
    await sql`drop table if exists incident_products`
    await sql`create table incident_products (id int primary key, name text not null default '', indexed_at timestamptz)`
    await sql`insert into incident_products (id) select generate_series(1, ${WEBHOOKS})`
    const idle = async () => {
      const [row] = await sql<{ count: number; oldest: number | null }[]>`
        select count(*)::int as count, max(extract(epoch from now() - xact_start))::float as oldest from pg_stat_activity
        where datname = current_database() and state = 'idle in transaction'`
      return { count: row?.count ?? Number.NaN, oldest: row?.oldest ?? 0 }
    }
    const tasksDone = async () => {
      const [row] = await sql<{ count: number }[]>`
        select count(*)::int as count from incident_products where indexed_at is not null`
      return row?.count ?? Number.NaN
    }
    const curve: Point[] = [[0, 0]]
    let accepted = 0
    for (let sent = 0; sent < WEBHOOKS; ) {
      const batch = Array.from({ length: WEBHOOKS / POINTS }, () => ++sent)
      const answers = await Promise.all(
        batch.map((id) => ask(`${app.url}/webhooks/products/${id}`, { method: 'POST', patienceMs: 2_000 })),
      )
      accepted += answers.filter(({ status }) => status === 200).length
      // Each task ends up in one of two ways.
      const deadline = performance.now() + QUIET_WITHIN_MS
      while ((await tasksDone()) + (await idle()).count < accepted && performance.now() < deadline) await delay(20)
      curve.push([sent, (await idle()).count])
    }
    const { count, oldest } = await idle()
    const done = await tasksDone()
    await sql.end()
    return {
      figures: [
        { what: 'webhooks', value: WEBHOOKS },
        { what: 'accepted', value: accepted },
        { what: 'tasks whose work others can see', value: done },
        { what: 'sessions idle in a transaction', value: count },
        { what: 'age of the oldest transaction, s', value: oldest },
      ],
      curve,
    }
  },

  claims: (before, after) => [
    {
      claim: 'before, the tasks’ transactions stayed open, one session each',
      holds: before('sessions idle in a transaction') >= 70 && before('tasks whose work others can see') === 0,
    },
    {
      claim: 'after, every task was done in a session of its own, and none is left',
      holds:
        after('sessions idle in a transaction') === 0 && after('tasks whose work others can see') === after('webhooks'),
    },
  ],
}
