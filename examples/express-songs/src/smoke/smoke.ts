import { setTimeout as sleep } from 'node:timers/promises'
import type { Snapshot } from '@reqscope/core'
import { connect } from '@reqscope/services'
import type { Sql } from 'postgres'
import { Closers } from '../closers.ts'
import { PLAN_SONGS_PER_MINUTE } from '../limits.ts'
import { APPLICATION_NAME, MAX_CONNECTIONS } from '../scopes.ts'
import { startServers } from '../servers.ts'
import { onShutdown } from '../shutdown.ts'
import { Child } from './child.ts'
import { Traffic, type Trouble } from './traffic.ts'

const TABS = 50
const KILL_EVERY_MS = 2_000
const SAMPLE_EVERY_MS = 100
const QUIET_WITHIN_MS = 10_000
const SHEETS_WITHIN_MS = 20_000
// A backend serves one request at a time; another one may be given its connection before its end is noticed.
const ANSWERS_PER_KILL = 2
const AFTERMATH_MS = 1_000

/** The line of JSON that a smoke test ends with. */
export interface Result {
  readonly requests: number
  readonly aborted: number
  /** Every answer that a client does not expect, but for the typed 503 after a backend was killed. */
  readonly unexpected: number
  readonly leasesOut: number
  readonly idleInTransaction: number
  readonly pgConnectionsOverMax: number
  /** Plans cut in half, or confirmed and not there. */
  readonly brokenPlans: number
  /** What a greedy client was refused with 429. */
  readonly limited: number
  /** What it was let through beyond its limit. */
  readonly overLimit: number
  /** Plans whose sheet was never written, though a worker was killed meanwhile. */
  readonly missingSheets: number
  readonly ok: boolean
}

export interface SmokeOptions {
  readonly seconds: number
  readonly json: boolean
  readonly withoutRedis: boolean
  readonly log: (line: string) => void
}

/** Tests the song book under load and faults, on servers of its own. Resolves to whether all is well. */
export async function smoke({ seconds, json, withoutRedis, log }: SmokeOptions): Promise<boolean> {
  const closers = new Closers()
  onShutdown(async () => {
    await closers.close()
    process.exit(1)
  })
  try {
    const { databaseUrl, redisUrl } = await startServers(closers, { own: true, withoutRedis, log })
    const env = { DATABASE_URL: databaseUrl, REDIS_URL: redisUrl }
    const app = new Child('the song book', new URL('./app-main.ts', import.meta.url), env)
    closers.add(() => app.stop())
    const url = await app.message<string>()
    const work = () => new Child('a worker', new URL('../worker-main.ts', import.meta.url), env)
    const workers = [work()]
    closers.add(() => Promise.all(workers.map((worker) => worker.stop())))
    await workers[0]?.message()
    const sql = connect(databaseUrl, 'smoke test')
    closers.add(() => sql.end({ timeout: 5 }))

    log(`Smoke: ${seconds} s of traffic from ${TABS} tabs`)
    // In the middle of its work, and nobody tells it: the next one takes over.
    const killing = sleep((seconds * 1_000) / 2).then(async () => {
      await workers[0]?.kill()
      workers.push(work())
    })
    const { traffic, kills, peak, tookMs } = await underLoad(url, sql, seconds)
    await killing
    const unexpected = unexplained(traffic.troubles, kills)
    const leasesOut = await leasesAtRest(url)
    const backends = await backendsOf(sql)
    const brokenPlans = await countBroken(sql, traffic.confirmed)
    const missingSheets = await sheetsThatNeverCome(sql)
    const ending = await app.stop()
    const facts = {
      requests: traffic.requests,
      aborted: traffic.aborted,
      unexpected: unexpected.length,
      leasesOut,
      idleInTransaction: backends.filter(({ state }) => state.startsWith('idle in transaction')).length,
      pgConnectionsOverMax: Math.max(0, peak - MAX_CONNECTIONS),
      brokenPlans,
      limited: traffic.limited,
      overLimit: Math.max(0, traffic.greedyPasses - allowedIn(tookMs)),
      missingSheets,
    }
    const { requests, aborted, limited, ...mustBeZero } = facts
    const ok =
      Math.min(requests, aborted, limited) > 0 &&
      Object.values(mustBeZero).every((count) => count === 0) &&
      ending === 'exit code 0'
    const result: Result = { ...facts, ok }
    for (const trouble of unexpected.slice(0, 10)) log(`Unexpected: ${trouble.call}: ${trouble.status} ${trouble.what}`)
    for (const line of ok ? [] : app.lastLines) log(line)
    log(
      `${kills.length} backends killed; the song book ended with ${ending}. ${ok ? 'All is well.' : 'Not all is well.'}`,
    )
    process.stdout.write(json ? `${JSON.stringify(result)}\n` : `${JSON.stringify(result, null, 2)}\n`)
    return ok
  } finally {
    await closers.close()
  }
}

async function underLoad(url: string, sql: Sql, seconds: number) {
  const traffic = new Traffic(url, TABS)
  const kills: number[] = []
  const killed = new Set<number>()
  let peak = 0
  const until = Date.now() + seconds * 1_000
  const watch = async () => {
    for (let sample = 1; Date.now() < until; sample++) {
      const backends = (await backendsOf(sql)).filter(({ pid }) => !killed.has(pid))
      peak = Math.max(peak, backends.length)
      const victim = backends[sample % Math.max(1, backends.length)]
      if (sample % (KILL_EVERY_MS / SAMPLE_EVERY_MS) === 10 && victim !== undefined) {
        kills.push(Date.now())
        killed.add(victim.pid)
        await sql`select pg_terminate_backend(${victim.pid})`
      }
      await sleep(SAMPLE_EVERY_MS)
    }
  }
  const startedAt = performance.now()
  await Promise.all([
    watch(),
    traffic.greedy(until),
    ...Array.from({ length: TABS }, (_, tab) => traffic.tab(tab + 1, until)),
  ])
  traffic.close()
  return { traffic, kills, peak, tookMs: performance.now() - startedAt }
}

/** A full quota at once, and what has come back since; one more for what is on its way. */
function allowedIn(tookMs: number): number {
  return PLAN_SONGS_PER_MINUTE + Math.ceil((PLAN_SONGS_PER_MINUTE * tookMs) / 60_000) + 1
}

/** What no kill explains. */
function unexplained(troubles: readonly Trouble[], kills: readonly number[]): Trouble[] {
  const left = new Map(kills.map((at) => [at, ANSWERS_PER_KILL]))
  return troubles.filter(({ status, code, at }) => {
    if (status !== 503 || code !== 'RSC_CONNECTION_LOST') return true
    const kill = [...left].find(([killedAt, n]) => n > 0 && at >= killedAt && at <= killedAt + AFTERMATH_MS)
    if (kill === undefined) return true
    left.set(kill[0], kill[1] - 1)
    return false
  })
}

/** What is still held once nobody asks for anything any more; NaN where the song book does not answer. */
async function leasesAtRest(url: string): Promise<number> {
  const deadline = performance.now() + QUIET_WITHIN_MS
  for (;;) {
    const response = await fetch(`${url}/debug/connections`).catch(() => undefined)
    if (response === undefined) return Number.NaN
    const { leases, openScopes } = (await response.json()) as Snapshot
    if (leases.length + openScopes.total === 0 || performance.now() > deadline) return leases.length + openScopes.total
    await sleep(50)
  }
}

function backendsOf(sql: Sql): Promise<{ pid: number; state: string }[]> {
  return Promise.resolve(sql<{ pid: number; state: string }[]>`
    select pid, coalesce(state, 'starting') as state from pg_stat_activity
     where application_name = ${APPLICATION_NAME} order by pid`)
}

/** How many plans have no sheet, once there has been time to write them all. */
async function sheetsThatNeverCome(sql: Sql): Promise<number> {
  const deadline = performance.now() + SHEETS_WITHIN_MS
  for (;;) {
    const [row] = await sql<{ count: number }[]>`
      select count(*)::int as count from plans where not exists (select from sheets where plan_id = plans.id)`
    if (row?.count === 0 || performance.now() > deadline) return row?.count ?? Number.NaN
    await sleep(100)
  }
}

async function countBroken(sql: Sql, confirmed: readonly number[]): Promise<number> {
  const [row] = await sql<{ count: number }[]>`
    select (select count(*)::int from plans where not exists (select from plan_songs where plan_id = plans.id))
         + (select count(*)::int from jsonb_array_elements(${sql.json(confirmed)}) as confirmed(id)
             where not exists (select from plans where plans.id = confirmed.id::int)) as count`
  return row?.count ?? Number.NaN
}
