import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { eq, sql } from 'drizzle-orm'
import { describe, expect, it, onTestFinished } from 'vitest'
import { createScopes, InvalidOptionError, RepeatedStatementsError, type ScopeDescription } from '../../src/index.ts'
import { postgres } from '../../src/postgres/index.ts'
import { checkStatementLog } from '../../src/postgres/statement-log.ts'
import { redis } from '../../src/redis/index.ts'
import { here } from '../here.ts'
import { memoryLogger } from '../memory-logger.ts'
import { accounts, accountsDatabase, appOn, failureOf } from './fixture.ts'

const database = await accountsDatabase()

function eventsOf(name: string): Record<string, unknown>[] {
  const events: Record<string, unknown>[] = []
  const keep = (event: unknown) => void events.push(event as Record<string, unknown>)
  subscribe(name, keep)
  onTestFinished(() => void unsubscribe(name, keep))
  return events
}

const app = (options: Parameters<typeof appOn>[1]) => appOn(database.url, options)

describe('a statement that a scope repeats', () => {
  it('is refused where it reaches the threshold, with the line that runs it, and leaves its transaction no way but back', async () => {
    const scopes = app({ repeatedStatements: { threshold: 3, mode: 'throw' } })
    let line = ''
    const failure = await failureOf(
      scopes.run({ name: 'GET /songs' }, async (scope) => {
        for (const id of [1, 2, 3, 4]) {
          line = here(1)
          await scope.db.select().from(accounts).where(eq(accounts.id, id))
        }
      }),
    )
    expect(failure).toBeInstanceOf(RepeatedStatementsError)
    expect(failure).toMatchObject({ code: 'RSC_REPEATED_STATEMENTS', resource: 'db', count: 3 })
    expect((failure as RepeatedStatementsError).site).toContain(line)
    expect((failure as Error).message).toContain('GET /songs')
    expect((failure as Error).message).not.toMatch(/params|\b1, 2, 3\b/)
    expect(scopes.snapshot().leases).toEqual([])
  })

  it.each([
    ['a tagged template', (db: Db) => db.$client`select 1 as one`],
    ['execute', (db: Db) => db.execute(sql`select 2 as two`)],
    ['several at once', (db: Db) => Promise.all([1, 2, 3, 4].map(() => db.execute(sql`select 3 as three`)))],
    ['a transaction', (db: Db) => db.transaction((tx) => tx.execute(sql`select 4 as four`))],
  ] as const)('is counted as %s', async (_, run) => {
    const scopes = app({ repeatedStatements: { threshold: 4, mode: 'throw' } })
    const failure = await failureOf(
      scopes.run({ name: 'loop' }, async ({ db }) => {
        for (let count = 0; count < 4; count++) await run(db as never)
      }),
    )
    expect(failure).toMatchObject({ code: 'RSC_REPEATED_STATEMENTS', count: 4 })
  })

  it('is logged when the scope ends, once, with how often and how long, where the mode is warn', async () => {
    const scopes = app({ repeatedStatements: { threshold: 3, mode: 'warn' } })
    await scopes.run({ name: 'loop' }, async (scope) => {
      for (let count = 0; count < 7; count++) await scope.db.execute(sql`select pg_sleep(0.002)`)
      await scope.db.execute(sql`select 1`)
    })
    const warnings = scopes.logs.filter(({ level }) => level === 'warn')
    expect(warnings).toHaveLength(1)
    expect(warnings[0]?.facts).toMatchObject({ statement: 'select pg_sleep(0.002)', count: 7 })
    const { totalMs, site } = warnings[0]?.facts ?? {}
    expect(totalMs).toBeGreaterThan(14)
    expect(site).toContain('statement-log.test.ts')
  })

  it('is published and not logged where the mode is event, and nothing of it happens where it is off', async () => {
    const events = eventsOf('reqscope:statements:repeated')
    const loop = async (mode: 'event' | 'off') => {
      const scopes = app({ repeatedStatements: { threshold: 2, mode }, slowStatements: { mode: 'off' } })
      await scopes.run({ name: mode }, async (scope) => {
        for (let count = 0; count < 5; count++) await scope.db.execute(sql`select 5 as five`)
      })
      return scopes.logs.filter(({ level }) => level === 'warn')
    }
    expect(await loop('event')).toEqual([])
    expect(await loop('off')).toEqual([])
    expect(events).toMatchObject([{ scope: { name: 'event' }, statement: 'select 5 as five', count: 5 }])
  })

  it('is looked for among a thousand texts of a scope, and takes no more memory than that', async () => {
    const scopes = app({ repeatedStatements: { threshold: 2, mode: 'throw' } })
    await scopes.run({ name: 'many' }, async (scope) => {
      const texts = Array.from({ length: 1_000 }, (_, index) => `select ${index} as n`)
      await Promise.all(texts.map((text) => scope.db.$client.unsafe(text)))
      for (let count = 0; count < 3; count++) await scope.db.$client.unsafe('select 1000 as n')
      expect(await failureOf(scope.db.$client.unsafe('select 5 as n'))).toBeInstanceOf(RepeatedStatementsError)
    })
  })

  it('is no batch of many rows, and is shown in part where it is long', async () => {
    const scopes = app({ repeatedStatements: { threshold: 2, mode: 'throw' } })
    const rows = (count: number) => sql`select ${sql.join(new Array(count).fill(sql`${1}::int`), sql`, `)}`
    const twice = (count: number) =>
      scopes.run({ name: 'twice' }, async ({ db }) => {
        for (let round = 0; round < 2; round++) await db.execute(rows(count))
      })
    await twice(1_000)
    const failure = (await failureOf(twice(200))) as RepeatedStatementsError
    expect(failure.statement).toHaveLength(1_001)
  })

  it('is none of what Reqscope runs itself, and no statement of another scope', async () => {
    const scopes = app({ repeatedStatements: { threshold: 2, mode: 'throw' } })
    for (let count = 0; count < 5; count++) {
      await scopes.run({ name: 'one each' }, async (scope) => {
        await scope.transaction(async () => void (await scope.db.execute(sql`select 6 as six`)))
        await scope.transaction(async () => {})
        await scope.lock(`statement-log:${process.pid}`, async () => {})
        await scope.lock(`statement-log:${process.pid}`, async () => {})
      })
    }
  })
})

type Db = import('../../src/postgres/index.ts').BoundDatabase<Record<string, never>>

describe('a slow statement', () => {
  it('is logged and published with its text and how long it took', async () => {
    const events = eventsOf('reqscope:statement:slow')
    const scopes = app({ slowStatements: { thresholdMs: 30, mode: 'warn' } })
    await scopes.run({ name: 'GET /report' }, async (scope) => {
      await scope.db.execute(sql`select 1`)
      await scope.db.execute(sql`select pg_sleep(${0.05})`)
    })
    expect(events).toMatchObject([{ scope: { name: 'GET /report' }, statement: 'select pg_sleep($1)' }])
    expect(events[0]?.totalMs as number).toBeGreaterThan(49)
    expect(scopes.logs.map(({ level }) => level)).toEqual(['warn'])
  })
})

describe("a scope's summary", () => {
  it('says what it ran and for how long, in an event and in the log at debug', async () => {
    const { testRedis } = await import('@reqscope/services/testing')
    const { logger, logs } = memoryLogger()
    const debugging = Object.assign(logger, { isLevelEnabled: () => true })
    const scopes = createScopes({
      resources: { db: postgres({ url: database.url, max: 1 }), redis: redis({ url: await testRedis() }) },
      logger: debugging,
    })
    onTestFinished(() => scopes.close({ timeoutMs: 1_000 }))
    const summaries = eventsOf('reqscope:scope:summary')
    await scopes.run({ name: 'GET /songs' }, async (scope) => {
      for (let count = 0; count < 12; count++) await scope.db.execute(sql`select 1`)
      await scope.redis.get(`summary:${process.pid}`)
    })
    expect(summaries).toMatchObject([
      {
        scope: { name: 'GET /songs' } as ScopeDescription,
        outcome: 'completed',
        resources: {
          db: { statements: 12, repeated: [{ statement: 'select 1', count: 12 }], waitedMs: expect.any(Number) },
          redis: { commands: 1, commandsMs: expect.any(Number) },
        },
      },
    ])
    expect(logs.some(({ level, message }) => level === 'debug' && message === 'task GET /songs ended')).toBe(true)
  })
})

describe('the options', () => {
  it.each([
    [{ repeatedStatements: { threshold: 1 } }, 'postgres.repeatedStatements.threshold'],
    [{ repeatedStatements: { mode: 'log' } }, 'postgres.repeatedStatements.mode'],
    [{ repeatedStatements: { max: 1 } }, 'postgres.repeatedStatements.max'],
    [{ slowStatements: { thresholdMs: '1' } }, 'postgres.slowStatements.thresholdMs'],
    [{ slowStatements: 5 }, 'postgres.slowStatements'],
  ])('are checked: %o', (options, option) => {
    const wrong = () => postgres({ url: database.url, ...(options as object) })
    expect(wrong).toThrow(InvalidOptionError)
    expect(wrong).toThrow(expect.objectContaining({ option }))
  })

  it.each([
    ['test', 'throw', 'warn'],
    ['production', 'event', 'event'],
    ['development', 'warn', 'warn'],
  ])('default by NODE_ENV: %s', (environment, repeated, slow) => {
    const before = process.env.NODE_ENV
    onTestFinished(() => void (process.env.NODE_ENV = before))
    process.env.NODE_ENV = environment
    expect(checkStatementLog()).toMatchObject({ repeated: { threshold: 10, mode: repeated }, slow: { mode: slow } })
  })
})
