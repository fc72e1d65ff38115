import { createScopes } from '@reqscope/core'
import { postgres } from '@reqscope/core/postgres'
import reqscope from '@reqscope/fastify-plugin'
import Fastify, { type FastifyInstance } from 'fastify'
import createClient, { type Sql } from 'postgres'
import { type Answer, load, outcomes, passed, percentile } from './load.ts'

const POOL = 10
// Loading a song fires four queries, one after the other; what they take, they take of a connection and not of the CPU.
const QUERIES = 4
const QUERY_SECONDS = 0.02
// Longer than that nobody looks at a page that does not come.
const PATIENCE_MS = 2_000

export interface Replay {
  readonly name: string
  readonly unloadedP99Ms: number
  readonly capacity: number
  readonly offered: number
  readonly goodput: number
  readonly p99Ms: number
  readonly outcomes: string
}

/** Twelve tabs, then five times what it can do. */
export async function replay(name: string, app: FastifyInstance, seconds: number): Promise<Replay> {
  const url = `${await app.listen({ port: 0, host: '127.0.0.1' })}/songs`
  try {
    await load({ url, clients: 12, seconds: 0.5 })
    const unloaded = passed(await load({ url, clients: 2, seconds: Math.max(1, seconds / 10) }))
    const measureSeconds = Math.max(1, seconds / 10)
    const capacity = passed(await load({ url, clients: 12, seconds: measureSeconds })).length / measureSeconds
    const offered = 5 * capacity
    // The first second is the compiler's, with and without.
    await load({ url, perSecond: offered, seconds: 1, patienceMs: PATIENCE_MS })
    const answers = await load({ url, perSecond: offered, seconds, patienceMs: PATIENCE_MS })
    // What is answered after the load is over is no answer under load.
    const good = passed(answers).filter(({ answeredAt }: Answer) => answeredAt <= seconds * 1_000)
    return {
      name,
      unloadedP99Ms: percentile(unloaded, 99),
      capacity,
      offered,
      goodput: good.length / seconds,
      p99Ms: percentile(passed(answers), 99),
      outcomes: outcomes(answers),
    }
  } finally {
    await app.close()
  }
}

/** The song book as it was: a pool that everybody may wait for, for as long as it takes. */
export function withoutReqscope(databaseUrl: string): FastifyInstance {
  const app = Fastify({ forceCloseConnections: true })
  const sql = createClient(databaseUrl, { max: POOL })
  app.get('/songs', async () => song(sql))
  app.addHook('onClose', () => sql.end({ timeout: 0 }))
  return app
}

/** The same with a scope for each request, and a door. */
export async function withReqscope(databaseUrl: string): Promise<FastifyInstance> {
  const app = Fastify()
  const scopes = createScopes({ resources: { db: postgres({ url: databaseUrl, max: POOL }) } })
  await app.register(reqscope, { scopes })
  const concurrency = { max: POOL, maxQueued: POOL / 2, maxWaitMs: 200 }
  app.get('/songs', { config: { scope: { timeoutMs: PATIENCE_MS, concurrency } } }, (request) =>
    song((request.scope as unknown as { db: { $client: Sql } }).db.$client),
  )
  return app
}

async function song(sql: Sql): Promise<object> {
  const queries = []
  for (let query = 0; query < QUERIES; query++) {
    queries.push(await sql`select pg_sleep(${QUERY_SECONDS})::text as slept`)
  }
  return { title: 'Rye Whiskey', queries: queries.length }
}
