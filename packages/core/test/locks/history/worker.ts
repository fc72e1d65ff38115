// A process of the history: takes locks, writes with their fences, and notes down what it sees, a line each.
import { writeSync } from 'node:fs'
import { and, eq, sql } from 'drizzle-orm'
import { bigint, integer, pgTable, text } from 'drizzle-orm/pg-core'
import type { PostgresJsDatabase } from 'drizzle-orm/postgres-js'
import { createScopes, type Scope } from '../../../src/index.ts'
import { type AnyLock, fenced } from '../../../src/locks/index.ts'
import { postgres } from '../../../src/postgres/index.ts'
import { redis as redisResource } from '../../../src/redis/index.ts'
import { now, type Record } from './record.ts'

export interface WorkerOptions {
  readonly name: string
  readonly store: 'redis' | 'postgres'
  readonly redis: string
  readonly postgres: string
  readonly keys: readonly string[]
  readonly ttlMs: number
  readonly waitMs: number
  readonly holdMs: number
  /** How many ask at once. */
  readonly parallel: number
}

const rows = pgTable('fenced_rows', {
  key: text('key').primaryKey(),
  version: integer('version').notNull(),
  fence: bigint('fence', { mode: 'number' }),
})

const options = JSON.parse(process.argv[2] ?? '') as WorkerOptions
const db = postgres({ url: options.postgres, schema: { rows }, max: options.store === 'postgres' ? 8 : 4 })
const redis = redisResource({ url: options.redis, commandTimeoutMs: 1_000 })
const quiet = { debug() {}, info() {}, warn() {}, error() {}, child: () => quiet }
const scopes = createScopes({ resources: options.store === 'redis' ? { db, redis } : { db }, logger: quiet })
let isOver = false
let holds = 0

function note(record: Record): void {
  writeSync(1, `${JSON.stringify(record)}\n`)
}

/** In a scope of its own, so that nothing but the fence stands in its way. */
async function write(hold: string, key: string, fence: number): Promise<void> {
  try {
    const [written] = await scopes.run({ name: 'write' }, (scope) =>
      (scope as Scope as unknown as { db: PostgresJsDatabase }).db
        .update(rows)
        .set({ fence, version: sql`${rows.version} + 1` })
        .where(and(eq(rows.key, key), fenced(rows.fence, fence)))
        .returning({ version: rows.version }),
    )
    if (written !== undefined) note({ tag: 'wrote', hold, key, fence, version: written.version })
  } catch (error) {
    const { code, reason } = error as { code?: string; reason?: string }
    if (code === 'RSC_LOCK_LOST' && reason === 'stale-fence') note({ tag: 'stale', hold, key, fence })
    // Anything else: the write did not happen, or nobody knows; its version says so.
  }
}

const validUntil = (lock: AnyLock): number => now() + (lock.expiresAt - Date.now()) - 1

async function take(): Promise<void> {
  const hold = `${options.name}.${++holds}`
  const key = options.keys[Math.floor(Math.random() * options.keys.length)] as string
  let granted = false
  let lost = false
  note({ tag: 'asked', at: now(), hold, key })
  try {
    await scopes.run({ name: 'work' }, (scope) =>
      scope.lock(key, { ttlMs: options.ttlMs, waitMs: options.waitMs }, async (lock) => {
        const at = now()
        const until = validUntil(lock)
        granted = true
        note({ tag: 'granted', at, hold, key, fence: lock.fence, validUntil: until })
        lock.signal.addEventListener('abort', () => note({ tag: 'told', at: now(), hold }))
        const end = at + options.holdMs * (Math.random() < 0.05 ? 10 : Math.random() * 2)
        const isLost = () => (scope as unknown as { lockRefusal?: Error }).lockRefusal !== undefined
        do {
          await write(hold, key, lock.fence)
          if (isLost()) break
          note({ tag: 'valid', at: now(), hold, validUntil: validUntil(lock) })
          await new Promise((resolve) => setTimeout(resolve, Math.random() * 3))
        } while (now() < end && !isOver)
        lost = isLost()
        // What was valid a moment ago writes once more, as somebody does who was paused between looking and writing.
        if (lost) await write(hold, key, lock.fence)
        note({ tag: 'done', at: now(), hold, lost })
      }),
    )
  } catch (error) {
    const { code } = error as { code?: string }
    if (!granted) note({ tag: 'refused', at: now(), hold, code: code ?? (error as Error).name })
    else if (code !== 'RSC_LOCK_LOST') note({ tag: 'done', at: now(), hold, lost })
  }
}

async function keepTaking(): Promise<void> {
  while (!isOver) {
    await take()
    await new Promise((resolve) => setTimeout(resolve, Math.random() * 5))
  }
}

process.stdin.on('end', () => (isOver = true)).resume()
await scopes.start()
await Promise.all(Array.from({ length: options.parallel }, keepTaking))
await scopes.close({ timeoutMs: 2_000 })
process.exit(0)
