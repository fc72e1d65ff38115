import { type ChildProcess, execFile, fork } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, rm, writeFile } from 'node:fs/promises'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { connect, createDatabase, startPostgres, startRedis } from '@reqscope/services'
import { Redis } from 'ioredis'
import type { Sql } from 'postgres'
import { TABLES } from './schema.ts'

const core = fileURLToPath(new URL('../../', import.meta.url))
const CHILDREN = 3
/** How long a process lives at most after it works, in milliseconds. */
const LIFE_MS = 250
const SETTLE_TIMEOUT_MS = 60_000

export interface CrashReport {
  readonly transport: 'redis' | 'postgres'
  readonly kills: number
  readonly restarts: number
  /** Orders whose transaction committed. */
  readonly rows: number
  /** Jobs in the queue, in whatever state. */
  readonly jobs: number
  readonly executed: number
  /** How often a job ran again. */
  readonly repeats: number
  /** Orders without a job, jobs without an order, and jobs whose effect is missing or of another order. */
  readonly mismatches: number
}

/** Compiled, a process starts three times as fast as with a loader. */
export async function compileChild(): Promise<string> {
  const folder = `${core}.cache/crash`
  await rm(folder, { recursive: true, force: true })
  await mkdir(folder, { recursive: true })
  const tsconfig = {
    extends: '../../../../tsconfig.base.json',
    include: ['../../src', '../../test/crash/child.ts'],
    compilerOptions: { noEmit: false, rootDir: '../..', outDir: '.', stripInternal: true },
  }
  await writeFile(`${folder}/tsconfig.json`, JSON.stringify(tsconfig))
  const compiler = fileURLToPath(new URL('../../../../node_modules/typescript/bin/tsc', import.meta.url))
  await promisify(execFile)(process.execPath, [compiler, '-p', folder])
  return `${folder}/test/crash/child.js`
}

/**
 * Kills processes that place orders and run their jobs, at random moments, and restarts their servers now and then. Then
 * one more process finishes what is left, and it is counted what came of it.
 */
export async function crashRun(options: {
  transport: 'redis' | 'postgres'
  kills: number
  restarts: number
  child: string
}): Promise<CrashReport> {
  const { transport, kills, restarts, child } = options
  const postgres = await startPostgres({ own: true })
  const redis = transport === 'redis' ? await startRedis({ own: true, aof: true }) : undefined
  try {
    const database = await createDatabase(postgres)
    const sql = connect(database.url)
    await sql.unsafe(TABLES)
    await sql.end()
    const env = {
      ...process.env,
      CRASH_POSTGRES_URL: database.url,
      CRASH_REDIS_URL: redis?.url,
      CRASH_TRANSPORT: transport,
    }
    let killed = 0
    let restarted = 0
    const crash = async () => {
      while (killed < kills) {
        const process = fork(child, ['place'], { env, stdio: 'ignore' })
        const exited = once(process, 'exit')
        // One in ten already while it starts.
        await (Math.random() < 0.1 ? delay(Math.random() * 400) : works(process))
        await delay(Math.random() * LIFE_MS)
        process.kill('SIGKILL')
        await exited
        killed++
      }
    }
    const restart = async () => {
      while (restarted < restarts) {
        await delay(20)
        if (killed < ((restarted + 1) * kills) / (restarts + 1)) continue
        const server = redis !== undefined && restarted % 2 === 0 ? redis : postgres
        server.kill('SIGKILL')
        await server.restart()
        restarted++
      }
    }
    await Promise.all([...Array.from({ length: CHILDREN }, crash), restart()])
    const last = fork(child, ['finish'], { env, stdio: 'ignore' })
    try {
      return { transport, kills: killed, restarts: restarted, ...(await judged(database.url, redis?.url)) }
    } finally {
      const exited = once(last, 'exit')
      last.kill('SIGKILL')
      await exited
    }
  } finally {
    await Promise.all([postgres.stop(), redis?.stop()])
  }
}

async function works(process: ChildProcess): Promise<void> {
  await Promise.race([once(process, 'message'), once(process, 'exit'), delay(10_000)])
}

/** Counts once nothing is on its way any more. */
async function judged(postgresUrl: string, redisUrl: string | undefined) {
  const sql = connect(postgresUrl)
  const redis = redisUrl === undefined ? undefined : new Redis(redisUrl)
  try {
    const deadline = Date.now() + SETTLE_TIMEOUT_MS
    while ((await unsettled(sql, redis)) > 0 && Date.now() < deadline) await delay(50)
    const ids = redis === undefined ? await idsOnPostgres(sql) : await idsOnRedis(redis)
    const [rows, ran, effects] = await Promise.all([
      sql<{ id: string; job_id: string }[]>`select id, job_id from placed`,
      sql<{ job_id: string; times: number }[]>`select job_id, count(*)::int as times from executed group by job_id`,
      sql<{ job_id: string; order_id: string }[]>`select job_id, order_id from effects`,
    ])
    const orderOf = new Map(effects.map((effect) => [effect.job_id, effect.order_id]))
    const ofRows = new Set(rows.map((row) => row.job_id))
    const jobs = new Set(ids)
    const mismatches =
      rows.filter((row) => !jobs.has(row.job_id) || orderOf.get(row.job_id) !== row.id).length +
      ids.filter((id) => !ofRows.has(id)).length +
      effects.filter((effect) => !ofRows.has(effect.job_id)).length +
      (rows.length - ofRows.size)
    const repeats = ran.reduce((sum, { times }) => sum + times - 1, 0)
    return { rows: rows.length, jobs: ids.length, executed: ran.length, repeats, mismatches }
  } finally {
    await sql.end({ timeout: 1 })
    redis?.disconnect()
  }
}

async function unsettled(sql: Sql, redis: Redis | undefined): Promise<number> {
  if (redis === undefined) {
    const [row] = await sql<
      { n: number }[]
    >`select count(*)::int as n from bullmq.job where state not in ('completed', 'failed')`
    return row?.n ?? 0
  }
  const [row] = await sql<{ n: number }[]>`select count(*)::int as n from reqscope_outbox`
  const lists = await Promise.all(['wait', 'active', 'paused'].map((name) => redis.llen(`bull:settle:${name}`)))
  const sets = await Promise.all(['delayed', 'prioritized'].map((name) => redis.zcard(`bull:settle:${name}`)))
  return [row?.n ?? 0, ...lists, ...sets].reduce((sum, n) => sum + n, 0)
}

async function idsOnPostgres(sql: Sql): Promise<string[]> {
  return (await sql<{ id: string }[]>`select id from bullmq.job where queue = 'settle'`).map(({ id }) => id)
}

async function idsOnRedis(redis: Redis): Promise<string[]> {
  const ids = await Promise.all(['completed', 'failed'].map((name) => redis.zrange(`bull:settle:${name}`, '0', '-1')))
  return ids.flat()
}
