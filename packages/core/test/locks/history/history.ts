import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { setTimeout as delay } from 'node:timers/promises'
import { connect, type RedisServer } from '@reqscope/services'
import { Redis } from 'ioredis'
import { compiled } from '../compiled.ts'
import { judge, type Pause, type Verdict } from './judge.ts'
import { now, type Record } from './record.ts'
import type { WorkerOptions } from './worker.ts'

export interface HistoryOptions {
  readonly store: 'redis' | 'postgres'
  readonly seconds: number
  readonly processes: number
  readonly redis: RedisServer
  /** The URL of an empty database. */
  readonly postgres: string
  /** Whether processes are paused, connections cut and the server restarted. */
  readonly faults: boolean
}

export interface History extends Verdict {
  readonly pauses: number
  readonly cuts: number
  readonly restarts: number
}

const TTL_MS = 1_000
/** How late a killed backend's client may hear of it on a busy machine: an advisory lock is as good as its connection. */
const NOTICE_MS = 250

/** Lets processes take locks for so long, disturbs them, and judges what they have noted down. */
export async function history(options: HistoryOptions): Promise<History> {
  const program = await compiled(new URL('worker.ts', import.meta.url))
  const sql = connect(options.postgres, 'observer')
  const keys = ['a', 'b', 'c']
  await sql`create table if not exists fenced_rows (key text primary key, version integer not null, fence bigint)`
  for (const key of keys) {
    await sql`insert into fenced_rows values (${key}, 0, null) on conflict (key) do update set version = 0, fence = null`
  }
  const records: Record[] = []
  const workers = Array.from({ length: options.processes }, (_, index) => {
    const worker: WorkerOptions = {
      name: `p${index}`,
      store: options.store,
      redis: options.redis.url,
      postgres: options.postgres,
      keys,
      ttlMs: TTL_MS,
      waitMs: 4_000,
      holdMs: 4,
      parallel: 3,
    }
    const child = spawn(process.execPath, [program, JSON.stringify(worker)], { stdio: ['pipe', 'pipe', 'inherit'] })
    const lines = createInterface({ input: child.stdout })
    lines.on('line', (line) => records.push(JSON.parse(line) as Record))
    return {
      child,
      begun: once(lines, 'line'),
      ended: once(child, 'exit') as Promise<[number | null]>,
      read: once(lines, 'close'),
    }
  })
  // A pause hurts where it hits a holder.
  const aHolder = () => {
    const open = new Set<string>()
    for (const record of records.slice(-2_000)) {
      if (record.tag === 'granted') open.add(record.hold)
      else if (record.tag === 'done') open.delete(record.hold)
    }
    const holders = [...open].map((hold) => Number(/^p(\d+)/.exec(hold)?.[1]))
    const index = holders[Math.floor(Math.random() * holders.length)] ?? 0
    return { process: `p${index}`, child: (workers[index] as (typeof workers)[number]).child }
  }
  const disturbance: Disturbance = { pauses: [], cuts: [], restarts: 0 }
  try {
    // Whoever is cut off while it starts has not started; that is another story.
    await Promise.all(workers.map(({ begun, ended }) => Promise.race([begun, ended])))
    const until = performance.now() + options.seconds * 1_000
    await Promise.all([
      delay(options.seconds * 1_000),
      ...(options.faults ? [disturb(options, aHolder, until, disturbance)] : []),
    ])
    for (const { child } of workers) child.stdin.end()
    const codes = await Promise.all(workers.map(({ ended }) => Promise.race([ended, delay(20_000, ['hangs'])])))
    await Promise.all(workers.map(({ read }) => Promise.race([read, delay(1_000)])))
    const verdict = judge(
      records,
      options.store === 'postgres'
        ? { at: disturbance.cuts, noticeMs: NOTICE_MS, pauses: disturbance.pauses }
        : undefined,
    )
    const badly = codes.flatMap(([code], index) => (code === 0 ? [] : [`process p${index} ended with ${code}`]))
    return {
      ...verdict,
      violations: [...badly, ...verdict.violations],
      pauses: disturbance.pauses.length,
      cuts: disturbance.cuts.length,
      restarts: disturbance.restarts,
    }
  } finally {
    for (const { child } of workers) child.kill('SIGKILL')
    await sql.end({ timeout: 1 })
  }
}

interface Disturbance {
  readonly pauses: Pause[]
  /** When. */
  readonly cuts: number[]
  restarts: number
}

async function disturb(
  options: HistoryOptions,
  aHolder: () => { readonly process: string; readonly child: ChildProcess },
  until: number,
  count: Disturbance,
): Promise<void> {
  const left = () => until - performance.now()
  const sleep = (ms: number) => delay(Math.max(0, Math.min(ms, left())))
  const pause = async () => {
    while (left() > 0) {
      await sleep(200 + Math.random() * 600)
      const { process, child } = aHolder()
      const from = now()
      if (left() <= 0 || !child.kill('SIGSTOP')) continue
      await sleep(Math.random() * 3 * TTL_MS)
      child.kill('SIGCONT')
      count.pauses.push({ process, from, to: now() })
    }
  }
  const cutRedis = async () => {
    const redis = new Redis(options.redis.url, { maxRetriesPerRequest: null })
    redis.on('error', () => {})
    while (left() > 0) {
      await sleep(300 + Math.random() * 700)
      const type = Math.random() < 0.5 ? 'normal' : 'pubsub'
      const killed = await redis.call('CLIENT', 'KILL', 'TYPE', type, 'SKIPME', 'yes').catch(() => 0)
      if (Number(killed) > 0) count.cuts.push(now())
    }
    redis.disconnect()
  }
  const restart = async () => {
    await sleep(options.seconds * 500)
    await options.redis.restart()
    count.restarts++
  }
  const killBackends = async () => {
    const sql = connect(options.postgres, 'observer')
    while (left() > 0) {
      await sleep(300 + Math.random() * 700)
      const at = now()
      const killed = await sql`
        select pg_terminate_backend(pid) from (
          select distinct pid from pg_locks where locktype = 'advisory' and database = (
            select oid from pg_database where datname = current_database()
          ) order by pid limit 2) as holders`
      for (const _ of killed) count.cuts.push(at)
    }
    await sql.end({ timeout: 1 })
  }
  await Promise.all(options.store === 'redis' ? [pause(), cutRedis(), restart()] : [pause(), killBackends()])
}
