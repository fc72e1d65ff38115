import { sql } from 'drizzle-orm'
import { describe, expect, it } from 'vitest'
import { tryCurrentScope } from '../../src/index.ts'
import { pin } from '../../src/postgres/index.ts'
import { heard } from '../heard.ts'
import { here } from '../here.ts'
import { type App, accounts, accountsDatabase, appOn, backendOf, backendsOf, failureOf, Gate } from './fixture.ts'

const database = await accountsDatabase()

type Scope = Parameters<Parameters<App['run']>[1]>[0]

/** The backends that run `pg_sleep`, seen from outside. */
async function sleepers(): Promise<number[]> {
  const backends = await backendsOf(database)
  return backends.filter(({ state, query }) => state === 'active' && query.includes('pg_sleep')).map(({ pid }) => pid)
}

const sleepsForever = sql`select pg_sleep(600)`

describe('after the end of a scope no lease is out:', () => {
  it.each<[string, (scope: Scope) => Promise<unknown>]>([
    ['of one that ran a statement', (scope) => backendOf(scope)],
    ['of one that used drizzle', (scope) => scope.db.query.accounts.findMany()],
    ['of one whose statement failed', (scope) => failureOf(scope.db.execute(sql`select 1 / 0`))],
    ['of one that committed', (scope) => scope.transaction(() => backendOf(scope))],
    ['of one that rolled back', (scope) => failureOf(scope.transaction(() => scope.db.execute(sql`select 1 / 0`)))],
    ['of one that pinned', (scope) => pin(scope.db, () => backendOf(scope))],
    ['of one that read a cursor', (scope) => scope.db.$client`select generate_series(1, 10)`.cursor(3, () => {})],
    [
      'of one that threw',
      async (scope) => {
        await backendOf(scope)
        throw new Error('no luck')
      },
    ],
  ])('%s', async (_name, work) => {
    const app = appOn(database)
    const reclaimed = heard('reqscope:lease:reclaimed')
    await app.run({ name: 'works' }, work).catch(() => {})
    expect(app.snapshot().leases).toEqual([])
    expect((await backendsOf(database)).map(({ state }) => state)).not.toContain('idle in transaction')
    // All of these gave their lease back themselves.
    expect(reclaimed).toEqual([])
    expect(app.logs).toEqual([])
  })
})

describe('a lease that had to be reclaimed', () => {
  it('from a statement that nobody awaited is reported with where it was taken, and the statement is cancelled', async () => {
    const app = appOn(database)
    const reclaimed = heard('reqscope:lease:reclaimed')
    let floating: Promise<unknown> = Promise.resolve()
    let takenAt = ''
    await app.run({ name: 'careless', id: 't-1' }, async (scope) => {
      takenAt = here(1)
      floating = failureOf(scope.db.execute(sleepsForever))
      await expect.poll(sleepers).toHaveLength(1)
    })
    expect(app.snapshot().leases).toEqual([])
    expect(await sleepers()).toEqual([])
    expect(reclaimed).toMatchObject([
      {
        lease: {
          resource: 'db',
          scope: { id: 't-1', kind: 'task', name: 'careless' },
          state: 'active',
          statement: 'select pg_sleep(600)',
          site: expect.stringContaining(takenAt),
        },
      },
    ])
    expect(app.logs).toMatchObject([
      {
        level: 'warn',
        message: expect.stringContaining('taken back'),
        facts: { resource: 'db', lease: { site: expect.stringContaining(takenAt) } },
      },
    ])
    expect(await floating).toMatchObject({ code: 'RSC_SCOPE_ENDED', scope: { id: 't-1' } })
  })

  it('from a transaction that nobody awaited leaves nothing behind, and says where it was started', async () => {
    const app = appOn(database)
    const reclaimed = heard('reqscope:lease:reclaimed')
    const gate = new Gate()
    let floating: Promise<unknown> = Promise.resolve()
    let startedAt = ''
    await app.run({ name: 'careless' }, async (scope) => {
      const inserted = new Gate()
      startedAt = here(2)
      floating = failureOf(
        scope.transaction(async () => {
          await scope.db.insert(accounts).values({ owner: 'nobody' })
          inserted.open()
          await gate.passed
        }),
      )
      await inserted.passed
    })
    expect(app.snapshot().leases).toEqual([])
    expect((await backendsOf(database)).map(({ state }) => state)).not.toContain('idle in transaction')
    expect(reclaimed).toMatchObject([{ lease: { state: 'transaction', site: expect.stringContaining(startedAt) } }])
    gate.open()
    expect(await floating).toMatchObject({ code: 'RSC_TRANSACTION_ENDED' })
    expect(await database.watch`select from accounts where owner = 'nobody'`).toHaveLength(0)
  })

  it('from a pinned connection whose function never settled is reported, and the connection is clean', async () => {
    const app = appOn(database, { max: 1 })
    const reclaimed = heard('reqscope:lease:reclaimed')
    const gate = new Gate()
    let floating: Promise<unknown> = Promise.resolve()
    await app.run({ name: 'careless' }, async (scope) => {
      const pinned = new Gate()
      floating = pin(scope.db, async () => {
        await scope.db.execute(sql`select set_config('app.secret', 'of the last one', false)`)
        pinned.open()
        await gate.passed
      })
      await pinned.passed
    })
    expect(app.snapshot().leases).toEqual([])
    expect(reclaimed).toMatchObject([{ lease: { state: 'pinned' } }])
    await app.run({ name: 'next' }, async (scope) => {
      const [row] = await scope.db.$client`select current_setting('app.secret', true) as secret`
      expect(row?.secret || null).toBeNull()
    })
    gate.open()
    await floating
  })

  it('from a cursor that nobody reads to its end is reported, and read by nobody else', async () => {
    const app = appOn(database, { max: 1 })
    const reclaimed = heard('reqscope:lease:reclaimed')
    const gate = new Gate()
    let floating: Promise<unknown> = Promise.resolve()
    await app.run({ name: 'careless' }, async (scope) => {
      const reading = new Gate()
      floating = failureOf(
        scope.db.$client`select generate_series(1, 100)`.cursor(10, async () => {
          reading.open()
          await gate.passed
        }),
      )
      await reading.passed
    })
    expect(app.snapshot().leases).toEqual([])
    expect(reclaimed).toMatchObject([{ lease: { state: 'cursor' } }])
    expect(await app.run({ name: 'next' }, backendOf)).toBeGreaterThan(0)
    gate.open()
    expect(await floating).toMatchObject({ code: expect.stringMatching(/^RSC_/) })
  })

  it('is not reported where the scope was cancelled: that its work is cut off is what was asked for', async () => {
    const app = appOn(database)
    const reclaimed = heard('reqscope:lease:reclaimed')
    const failure = await failureOf(
      app.run({ name: 'slow', timeoutMs: 100 }, (scope) => scope.db.execute(sleepsForever)),
    )
    expect(failure).toMatchObject({ code: 'RSC_DEADLINE_EXCEEDED' })
    expect(reclaimed).toEqual([])
    expect(app.snapshot().leases).toEqual([])
  })
})

describe('a database handle', () => {
  it('used after the end of its scope rejects, naming where it was taken', async () => {
    const app = appOn(database)
    let takenAt = ''
    const db = await app.run({ name: 'careless' }, async (scope) => {
      takenAt = here(1)
      const { db } = scope
      await db.query.accounts.findMany()
      return db
    })
    for (const use of [
      () => db.query.accounts.findMany(),
      () => db.select().from(accounts),
      () => db.insert(accounts).values({ owner: 'nobody' }),
      () => db.$client`select 1`,
      () => db.$client.unsafe('select 1'),
      () => db.$client`select 1`.cursor(1, () => {}),
      () => db.transaction(async () => {}),
      () => pin(db, () => {}),
      () => db.$client.begin(() => {}),
      () => db.$count(accounts),
    ]) {
      const error = await failureOf((async () => use())())
      expect(error).toMatchObject({ code: 'RSC_SCOPE_ENDED', resource: 'db', scope: { name: 'careless' } })
      expect((error as Error).message).toContain(takenAt)
    }
    expect(app.snapshot().leases).toEqual([])
  })

  it('used inside another open scope is a leak, and runs nothing', async () => {
    const app = appOn(database)
    await app.run({ name: 'owner' }, async ({ db }) => {
      await app.run({ name: 'user' }, async () => {
        for (const use of [
          () => db.insert(accounts).values({ owner: 'leaked' }),
          () => db.$client`insert into accounts (owner) values ('leaked')`,
          () => db.transaction((tx) => tx.insert(accounts).values({ owner: 'leaked' })),
        ]) {
          expect(await failureOf((async () => use())())).toMatchObject({
            code: 'RSC_SCOPE_LEAK',
            scope: { name: 'owner' },
            usedFrom: { name: 'user' },
          })
        }
      })
    })
    expect(await database.watch`select from accounts where owner = 'leaked'`).toHaveLength(0)
  })

  it('a query that was built in one scope and is awaited in another one runs nothing', async () => {
    const app = appOn(database)
    await app.run({ name: 'owner' }, async ({ db }) => {
      const query = db.insert(accounts).values({ owner: 'leaked' })
      expect(await failureOf(app.run({ name: 'user' }, () => query))).toMatchObject({ code: 'RSC_SCOPE_LEAK' })
    })
    expect(await database.watch`select from accounts where owner = 'leaked'`).toHaveLength(0)
  })

  it('works in clean-ups while its scope ends, and only there', async () => {
    const app = appOn(database)
    const outcomes: unknown[] = []
    const { db } = await app.run({ name: 'cleans up' }, (scope) => {
      scope.defer(async () => {
        await scope.db.insert(accounts).values({ owner: 'from the clean-up' })
        await scope.transaction(() => scope.db.insert(accounts).values({ owner: 'from its transaction' }))
        outcomes.push(await failureOf(outside(async () => scope.db.$client`select 1`)))
      })
      return scope
    })
    expect(await database.watch`select from accounts where owner like 'from %'`).toHaveLength(2)
    expect(outcomes).toMatchObject([{ code: 'RSC_SCOPE_ENDED' }])
    expect(await failureOf(db.$client`select 1`)).toMatchObject({ code: 'RSC_SCOPE_ENDED' })
  })

  it('works in clean-ups after the deadline has passed and cancelled what ran', async () => {
    const app = appOn(database)
    await failureOf(
      app.run({ name: 'slow', timeoutMs: 100 }, async (scope) => {
        scope.defer(() => scope.db.insert(accounts).values({ owner: 'left a note' }))
        await scope.db.execute(sleepsForever)
      }),
    )
    expect(await database.watch`select from accounts where owner = 'left a note'`).toHaveLength(1)
  })
})

describe('callbacks on a connection that another scope has used before', () => {
  it.each<[string, (scope: Scope, callback: () => void) => Promise<unknown>]>([
    ['forEach', (scope, callback) => scope.db.$client`select generate_series(1, 3)`.forEach(callback)],
    ['cursor', (scope, callback) => scope.db.$client`select generate_series(1, 3)`.cursor(1, callback)],
  ])('%s runs them in the scope of the caller', async (_name, run) => {
    const app = appOn(database, { max: 1 })
    await app.run({ name: 'first' }, backendOf) // opens the connection
    for (const name of ['second', 'third']) {
      await app.run({ name }, async (scope) => {
        const seen: unknown[] = []
        await run(scope, () => void seen.push(tryCurrentScope()))
        expect(seen).toEqual([scope, scope, scope])
      })
    }
  })
})

describe('the site of a lease', () => {
  class AccountRepository {
    readonly #scope: Scope
    constructor(scope: Scope) {
      this.#scope = scope
    }
    async all() {
      return this.#scope.db.select().from(accounts)
    }
  }

  const siteIn = (app: App) => app.snapshot().leases[0]?.site

  it("is the user's own frame, not one of ours, of drizzle's or of postgres.js", async () => {
    const app = appOn(database)
    await app.run({ name: 'repository' }, async (scope) => {
      await new AccountRepository(scope).all()
      expect(siteIn(app)).toMatch(/AccountRepository\.all \(.*leases\.test\.ts:\d+:\d+\)/)
    })
  })

  it('is where the transaction was started, while there is one', async () => {
    const app = appOn(database)
    await app.run({ name: 'transactions' }, async (scope) => {
      await backendOf(scope)
      const startedAt = here(1)
      await scope.transaction(async () => {
        await backendOf(scope)
        expect(siteIn(app)).toContain(startedAt)
      })
      const drizzleAt = here(1)
      await scope.db.transaction(async (tx) => {
        await tx.execute(sql`select 1`)
        expect(siteIn(app)).toContain(drizzleAt)
      })
    })
  })

  it.each<[string, { leakThresholdMs?: number; acquisitionSites?: 'never' }]>([
    ['there is no leak threshold', { leakThresholdMs: 0 }],
    ['acquisitionSites is never', { acquisitionSites: 'never' }],
  ])('is not captured where %s', async (_name, options) => {
    const app = appOn(database, options)
    await app.run({ name: 'anonymous' }, async (scope) => {
      await backendOf(scope)
      expect(app.snapshot().leases).toMatchObject([{ site: undefined }])
    })
  })

  it('is always that of the route where sites are sampled', async () => {
    const app = appOn(database, { acquisitionSites: 'sampled' })
    for (let round = 0; round < 40; round++) {
      for (const name of ['GET /a', 'GET /b']) {
        await app.run({ name }, async (scope) => {
          await (name === 'GET /a' ? new AccountRepository(scope).all() : backendOf(scope))
          expect(siteIn(app)).toContain(name === 'GET /a' ? 'AccountRepository.all' : 'fixture.ts')
        })
      }
    }
  })
})

const outside = (await import('node:async_hooks')).AsyncLocalStorage.snapshot()
