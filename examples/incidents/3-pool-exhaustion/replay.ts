import { connect } from '@reqscope/services'
import type { Incident, Point, Replayed } from '../src/incident.ts'
import { load, passed, percentile } from '../src/load.ts'
import { POOL } from './song-book.ts'

const TABS = 12
const OVERLOAD = 5
// Longer than that nobody looks at a page that does not come.
const PATIENCE_MS = 2_000

/**
 * Twelve tabs of the song book; then five times as many requests as it can answer.
 *
 * @param seconds how long it is overloaded; what it is compared with is measured for a tenth of that, a second at least.
 */
export const poolExhaustion = (seconds: number): Incident => ({
  number: 3,
  title: 'Pool exhaustion',
  folder: new URL('.', import.meta.url),
  axes: { x: `seconds at ${OVERLOAD} × the capacity`, y: 'songs served in a second' },

  async replay([app], { databaseUrl }): Promise<Replayed> {
    if (app === undefined) throw new Error('there is no application')
    const measureSeconds = Math.max(1, seconds / 10)
    const sql = connect(databaseUrl, 'observer')
    const url = `${app.url}/songs/7`
    const busy = async (states: string[]) => {
      const [row] = await sql<{ count: number }[]>`select count(*)::int as count from pg_stat_activity
        where application_name = 'songs' and datname = current_database() and state in ${sql(states)}`
      return row?.count ?? Number.NaN
    }
    await load({ url, clients: TABS, seconds: 1 }) // the connections are there, and the code is compiled
    const statements = await statementsOf(url, sql)
    const unloaded = passed(await load({ url, clients: 1, seconds: measureSeconds }))
    const { most: poolUse, result: tabs } = await watched(
      () => busy(['active', 'idle in transaction']),
      () => load({ url, clients: TABS, seconds: measureSeconds }),
    )
    const capacity = passed(tabs).length / measureSeconds
    await load({ url, perSecond: OVERLOAD * capacity, seconds: 1, patienceMs: PATIENCE_MS })
    const answers = passed(await load({ url, perSecond: OVERLOAD * capacity, seconds, patienceMs: PATIENCE_MS }))
    const served = (from: number, to: number) =>
      answers.filter(({ answeredAt }) => answeredAt >= from * 1_000 && answeredAt < to * 1_000).length
    const curve = Array.from({ length: seconds }, (_, second): Point => [second + 1, served(second, second + 1)])
    const leftBehind = await busy(['idle in transaction', 'active'])
    await sql.end()
    return {
      figures: [
        { what: 'statements for a song', value: statements },
        { what: `pool use with ${TABS} tabs, %`, value: Math.round((100 * poolUse) / POOL) },
        { what: `p99 with ${TABS} tabs, ms`, value: Math.round(percentile(passed(tabs), 99)) },
        { what: 'p99 unloaded, ms', value: Math.round(percentile(unloaded, 99)) },
        { what: 'capacity, songs a second', value: Math.round(capacity) },
        {
          what: `served at ${OVERLOAD} × that, % of the capacity`,
          value: Math.round((100 * served(0, seconds)) / seconds / capacity),
        },
        { what: 'p99 of these, ms', value: Math.round(percentile(answers, 99)) },
        { what: 'connections still busy afterwards', value: leftBehind },
      ],
      curve,
    }
  },

  claims: (before, after) => {
    const overloaded = `served at ${OVERLOAD} × that, % of the capacity`
    return [
      {
        claim: 'before, twelve tabs took the whole pool',
        holds: before(`pool use with ${TABS} tabs, %`) >= 90,
      },
      {
        claim: 'before, most songs never came under overload',
        holds: before(overloaded) < 60,
        isTimed: true,
      },
      {
        claim: 'after, there are 80 % fewer statements, half of the pool is free, and nothing is left behind',
        holds:
          after('statements for a song') <= 0.2 * before('statements for a song') &&
          after(`pool use with ${TABS} tabs, %`) <= 50 &&
          after('connections still busy afterwards') === 0,
      },
      {
        claim: 'after, twelve tabs are answered within 200 ms',
        holds: after(`p99 with ${TABS} tabs, ms`) < 200,
        isTimed: true,
      },
      {
        claim: 'after, overload leaves 90 % of the capacity and answers within three times the unloaded p99',
        holds: after(overloaded) >= 90 && after('p99 of these, ms') <= 3 * after('p99 unloaded, ms'),
        isTimed: true,
      },
    ]
  },
})

/** The most that `measure` says while `work` goes on. */
async function watched<Result>(
  measure: () => Promise<number>,
  work: () => Promise<Result>,
): Promise<{ most: number; result: Result }> {
  let most = 0
  let over = false
  const watching = (async () => {
    while (!over) {
      most = Math.max(most, await measure())
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
  })()
  const result = await work()
  over = true
  await watching
  return { most, result }
}

/** As the server counts them. */
async function statementsOf(url: string, sql: ReturnType<typeof connect>): Promise<number> {
  const requests = 20
  await sql`create extension if not exists pg_stat_statements`
  const executed = async () => {
    const [row] = await sql<{ count: number }[]>`
      select coalesce(sum(calls), 0)::int as count from pg_stat_statements
      where dbid = (select oid from pg_database where datname = current_database()) and query like '%pg_sleep%'`
    return row?.count ?? Number.NaN
  }
  const before = await executed()
  for (let request = 0; request < requests; request++) await fetch(url).then((response) => response.text())
  return ((await executed()) - before) / requests
}
