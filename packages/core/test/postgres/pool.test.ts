import { sql } from 'drizzle-orm'
import { beforeEach, describe, expect, it, vi } from 'vitest'
import { PoolExhaustedError, ScopeEndedError } from '../../src/index.ts'
import { pin } from '../../src/postgres/index.ts'
import { heard } from '../heard.ts'
import { accountsDatabase, appOn, backendOf, backendsOf, failureOf, Gate, proxyTo } from './fixture.ts'
import { holder, noBackends, poolOf, waiting, warmUp } from './pool-fixture.ts'

const database = await accountsDatabase()

// Also says that no connection outlives the runtime of the test before.
beforeEach(() => noBackends(database))

describe('the pool', () => {
  it('never has more connections than max, however many scopes ask at once', async () => {
    const app = appOn(database, { max: 3 })
    const holders = await Promise.all(Array.from({ length: 3 }, (_each, nr) => holder(app, `holder ${nr}`)))
    const others = Array.from({ length: 20 }, () => app.run({ name: 'other' }, backendOf))
    await waiting(app, 20)
    const backends = (await backendsOf(database)).map(({ pid }) => pid)
    expect(backends).toHaveLength(3)
    await Promise.all(holders.map(({ letGo }) => letGo()))
    const used = await Promise.all(others)
    expect(backends).toEqual(expect.arrayContaining(used))
    expect(await backendsOf(database)).toHaveLength(3)
    expect(await poolOf(app)).toMatchObject({ max: 3, open: 3, idle: 3, leased: 0, opening: 0, waiting: 0 })
  })

  it('opens a connection when the first statement needs one, and none for a scope that runs no statement', async () => {
    const app = appOn(database)
    await app.start()
    const opened = heard('reqscope:connection:opened')
    await Promise.all([1, 2, 3].map(() => app.run({ name: 'idle' }, (scope) => void scope.db)))
    expect(opened).toEqual([])
    const holding = await holder(app)
    await app.run({ name: 'busy' }, backendOf)
    expect(opened).toHaveLength(1)
    await holding.letGo()
  })

  it('refuses who has waited for acquireTimeoutMs with a PoolExhaustedError that says what was going on', async () => {
    const app = appOn(database, { max: 1, acquireTimeoutMs: 100 })
    const exhausted = heard('reqscope:pool:exhausted')
    const holding = await holder(app)
    const error = await failureOf(app.run({ name: 'late', id: 't-1' }, backendOf))
    expect(error).toBeInstanceOf(PoolExhaustedError)
    expect(error).toMatchObject({
      code: 'RSC_POOL_EXHAUSTED',
      statusCode: 503,
      retryAfterMs: 1_000,
      resource: 'db',
      max: 1,
      waiting: 0,
    })
    const { waitedMs, message } = error as PoolExhaustedError
    expect(waitedMs).toBeGreaterThanOrEqual(99)
    expect(waitedMs).toBeLessThan(1_000)
    expect(message).toMatch(/No connection of db became free within \d+ ms: 1 at most.*scopes\.snapshot\(\)/)
    expect(exhausted).toMatchObject([{ resource: 'db', reason: 'timeout', scope: { id: 't-1', name: 'late' } }])
    await holding.letGo()
  })

  it('reaches drizzle’s users as a PoolExhaustedError too, not wrapped', async () => {
    const app = appOn(database, { max: 1, acquireTimeoutMs: 20 })
    const holding = await holder(app)
    expect(await failureOf(app.run({ name: 'late' }, (scope) => scope.db.query.accounts.findMany()))).toBeInstanceOf(
      PoolExhaustedError,
    )
    await holding.letGo()
  })

  it('refuses at once who would be one waiter too many', async () => {
    const app = appOn(database, { max: 1, maxWaiting: 2, acquireTimeoutMs: 60_000 })
    const holding = await holder(app)
    const waiters = [1, 2].map(() => app.run({ name: 'waits' }, backendOf))
    await waiting(app, 2)
    const error = await failureOf(app.run({ name: 'one too many' }, backendOf))
    expect(error).toBeInstanceOf(PoolExhaustedError)
    expect(error).toMatchObject({ waiting: 2, waitedMs: 0, message: expect.stringContaining('Too many already wait') })
    await holding.letGo()
    expect(await Promise.all(waiters)).toEqual([holding.backend, holding.backend])
  })

  it('with maxWaiting 0 serves as many as there may be connections, opening them, and refuses the next', async () => {
    const app = appOn(database, { max: 3, maxWaiting: 0 })
    const holders = await Promise.all([1, 2, 3].map((nr) => holder(app, `holder ${nr}`)))
    expect(await failureOf(app.run({ name: 'one too many' }, backendOf))).toBeInstanceOf(PoolExhaustedError)
    await Promise.all(holders.map(({ letGo }) => letGo()))
  })

  it('serves those who wait in the order they came in', async () => {
    const app = appOn(database, { max: 1 })
    const holding = await holder(app)
    const served: number[] = []
    const all: Promise<unknown>[] = []
    for (let nr = 0; nr < 10; nr++) {
      all.push(app.run({ name: `nr ${nr}` }, async (scope) => served.push(await backendOf(scope).then(() => nr))))
      await waiting(app, nr + 1)
    }
    await holding.letGo()
    await Promise.all(all)
    expect(served).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
  })

  it('serves a scope that held a connection before newcomers, so that work that began finishes', async () => {
    const app = appOn(database, { max: 1 })
    const served: string[] = []
    const apiAnswers = new Gate()
    const veteranWaits = new Gate()
    const veteran = app.run({ name: 'veteran' }, async (scope) => {
      await backendOf(scope)
      veteranWaits.open()
      await apiAnswers.passed
      await backendOf(scope)
      served.push('veteran')
    })
    await veteranWaits.passed
    const holding = await holder(app) // takes the connection, which the veteran does not need right now
    const newcomers = [1, 2].map((nr) =>
      app.run({ name: 'newcomer' }, async (scope) => {
        await backendOf(scope)
        served.push(`newcomer ${nr}`)
      }),
    )
    await waiting(app, 2)
    apiAnswers.open()
    await waiting(app, 3)
    await holding.letGo()
    await Promise.all([veteran, ...newcomers])
    expect(served).toEqual(['veteran', 'newcomer 1', 'newcomer 2'])
  })
})

describe('a lease', () => {
  it('is sticky: a scope keeps its connection while nobody waits', async () => {
    const app = appOn(database, { max: 2 })
    await warmUp(app, 2)
    await app.run({ name: 'keeps' }, async (scope) => {
      const first = await backendOf(scope)
      await app.run({ name: 'other' }, async (other) => expect(await backendOf(other)).not.toBe(first))
      expect(app.snapshot().leases).toMatchObject([{ state: 'idle', backend: first, scope: { name: 'keeps' } }])
      expect(await backendOf(scope)).toBe(first)
    })
    expect(app.snapshot().leases).toEqual([])
  })

  it('yields: a handler that awaits a slow API holds nothing while others want its connection', async () => {
    const app = appOn(database, { max: 1, acquireTimeoutMs: 300 })
    const apiAnswers = new Gate()
    const calling = new Gate()
    const slow = app.run({ name: 'calls a slow API' }, async (scope) => {
      await backendOf(scope)
      calling.open()
      await apiAnswers.passed
      return backendOf(scope)
    })
    await calling.passed
    await Promise.all([1, 2, 3, 4, 5].map(() => app.run({ name: 'other' }, backendOf)))
    expect(app.snapshot().leases).toEqual([])
    apiAnswers.open()
    expect(await slow).toBeGreaterThan(0)
  })

  it('yields as soon as its statement is done to somebody who came meanwhile', async () => {
    const app = appOn(database, { max: 1 })
    const apiAnswers = new Gate()
    const slow = app.run({ name: 'slow' }, async (scope) => {
      await scope.db.execute(sql`select pg_advisory_xact_lock_shared(1), pg_sleep(0.2)`)
      await apiAnswers.passed
    })
    await expect.poll(async () => (await backendsOf(database)).map(({ state }) => state)).toEqual(['active'])
    expect(await app.run({ name: 'other' }, backendOf)).toBeGreaterThan(0)
    apiAnswers.open()
    await slow
  })

  it('does not yield in a transaction: who waits gets the connection after its end', async () => {
    const app = appOn(database, { max: 1 })
    const holding = await holder(app)
    let served = false
    const other = app.run({ name: 'other' }, (scope) => backendOf(scope).then(() => void (served = true)))
    await waiting(app, 1)
    expect(served).toBe(false)
    await holding.letGo()
    await other
    expect(served).toBe(true)
  })

  it('is shared by the parallel statements of its scope, which run in order', async () => {
    const app = appOn(database, { max: 5 })
    const rows = await app.run({ name: 'parallel' }, async (scope) => {
      const all = Promise.all(
        Array.from({ length: 50 }, async (_each, nr) => {
          const [row] = await scope.db
            .$client`select ${nr}::int as nr, pg_backend_pid() as pid, clock_timestamp() as at`
          return row as { nr: number; pid: number; at: string }
        }),
      )
      await expect.poll(() => app.snapshot().leases.length).toBe(1)
      return all
    })
    expect(new Set(rows.map(({ pid }) => pid)).size).toBe(1)
    expect(rows.map(({ nr }) => nr)).toEqual(rows.toSorted((a, b) => (a.at < b.at ? -1 : 1)).map(({ nr }) => nr))
  })

  it("runs no other scope's statement: what a transaction sets is seen by its own statements only", async () => {
    const app = appOn(database, { max: 4 })
    const tasks = Array.from({ length: 40 }, (_each, nr) =>
      app.run({ name: `nr ${nr}` }, async (scope) => {
        await scope.transaction(async () => {
          await scope.db.$client`select set_config('app.owner', ${`nr ${nr}`}, true)`
          for (let round = 0; round < 5; round++) {
            const [row] = await scope.db.$client`select current_setting('app.owner') as owner`
            expect(row?.owner).toBe(`nr ${nr}`)
          }
        })
        const [row] = await scope.db.$client`select current_setting('app.owner', true) as owner`
        expect(row?.owner || null).toBeNull()
      }),
    )
    await Promise.all(tasks)
  })

  it('yields also when the server takes no more connections: who waits is served by what there is', async () => {
    const proxy = await proxyTo(database)
    const app = appOn(proxy.url(database.url), { max: 5, acquireTimeoutMs: 2_000 })
    const apiAnswers = new Gate()
    const calling = new Gate()
    const slow = app.run({ name: 'calls a slow API' }, async (scope) => {
      await backendOf(scope)
      calling.open()
      await apiAnswers.passed
      await backendOf(scope)
    })
    await calling.passed
    proxy.refuse()
    expect(await app.run({ name: 'other' }, backendOf)).toBeGreaterThan(0)
    apiAnswers.open()
    await slow
  })
})

describe('a lease', () => {
  it('yields also when another connection takes long to open: who waits does not wait for that', async () => {
    let opened = 0
    const app = appOn(database, {
      max: 2,
      acquireTimeoutMs: 5_000,
      password: () => (opened++ === 0 ? new URL(database.url).password : new Promise<string>(() => {})),
    })
    const apiAnswers = new Gate()
    const calling = new Gate()
    const slow = app.run({ name: 'calls a slow API' }, async (scope) => {
      await backendOf(scope)
      calling.open()
      await apiAnswers.passed
    })
    await calling.passed
    const startedAt = performance.now()
    await app.run({ name: 'other' }, backendOf)
    expect(performance.now() - startedAt).toBeLessThan(2_500)
    expect(opened).toBe(2)
    apiAnswers.open()
    await slow
  })
})

describe('a late grant', () => {
  it('goes straight back: a connection that is free after its waiter gave up serves the next one', async () => {
    const app = appOn(database, { max: 1, acquireTimeoutMs: 50 })
    const holding = await holder(app)
    expect(await failureOf(app.run({ name: 'gave up' }, backendOf))).toBeInstanceOf(PoolExhaustedError)
    await holding.letGo()
    expect(await poolOf(app)).toMatchObject({ open: 1, idle: 1, leased: 0, waiting: 0 })
    expect(await app.run({ name: 'next' }, backendOf)).toBe(holding.backend)
  })

  it('goes to the pool when opening it took longer than its waiter waited', async () => {
    const proxy = await proxyTo(database)
    const app = appOn(proxy.url(database.url), { max: 2, acquireTimeoutMs: 100 })
    const holding = await holder(app)
    proxy.delay(150)
    expect(await failureOf(app.run({ name: 'gave up' }, backendOf))).toBeInstanceOf(PoolExhaustedError)
    await vi.waitFor(
      async () => expect(await poolOf(app)).toMatchObject({ open: 2, idle: 1, opening: 0, waiting: 0 }),
      5_000,
    )
    await proxy.resume()
    expect(await app.run({ name: 'next' }, backendOf)).not.toBe(holding.backend)
    await holding.letGo()
    expect(await poolOf(app)).toMatchObject({ open: 2, idle: 2, leased: 0 })
  })
})

describe('who waits for a connection', () => {
  it('leaves the queue when its deadline passes', async () => {
    const app = appOn(database, { max: 1, acquireTimeoutMs: 60_000 })
    const holding = await holder(app)
    expect(await failureOf(app.run({ name: 'hurried', timeoutMs: 50 }, backendOf))).toMatchObject({
      code: 'RSC_DEADLINE_EXCEEDED',
    })
    expect((await poolOf(app)).waiting).toBe(0)
    await holding.letGo()
    expect(await poolOf(app)).toMatchObject({ idle: 1, leased: 0 })
  })

  it('leaves the queue when its client goes away', async () => {
    const app = appOn(database, { max: 1, acquireTimeoutMs: 60_000 })
    const holding = await holder(app)
    const scope = app.open({ id: 'r-1', kind: 'request', name: 'GET /accounts', onAbort: 'cancel' })
    const statement = failureOf(backendOf(scope))
    await waiting(app, 1)
    scope.clientGone()
    expect((await poolOf(app)).waiting).toBe(0)
    expect(await statement).toMatchObject({ code: 'RSC_SCOPE_ABORTED' })
    await scope.end({ tag: 'completed' })
    await holding.letGo()
  })

  it.each<[string, (scope: Parameters<typeof backendOf>[0]) => Promise<unknown>]>([
    ['for a statement', (scope) => backendOf(scope)],
    ['for a pinned connection', (scope) => pin(scope.db, () => backendOf(scope))],
    ['for a cursor', (scope) => scope.db.$client`select 1`.cursor(1, () => {})],
  ])('%s leaves the queue when its scope ends', async (_name, wait) => {
    const app = appOn(database, { max: 1, acquireTimeoutMs: 60_000 })
    const holding = await holder(app)
    const scope = app.open({ id: 'r-1', kind: 'request', name: 'GET /accounts' })
    const statement = failureOf(wait(scope))
    await waiting(app, 1)
    await scope.end({ tag: 'completed' })
    expect((await poolOf(app)).waiting).toBe(0)
    expect(await statement).toBeInstanceOf(ScopeEndedError)
    await holding.letGo()
    expect(await poolOf(app)).toMatchObject({ idle: 1, leased: 0 })
  })

  it('is told that the application shuts down when it does', async () => {
    const app = appOn(database, { max: 1, acquireTimeoutMs: 60_000 })
    const holding = await holder(app)
    const statement = failureOf(app.run({ name: 'waits' }, backendOf))
    await waiting(app, 1)
    await app.close({ timeoutMs: 200 })
    expect(await statement).toMatchObject({ code: 'RSC_SCOPE_ABORTED', reason: 'shutdown' })
    await failureOf(holding.letGo())
  })

  it('in a requiresNew with no connection left fails within the acquire timeout, and is told why', async () => {
    const app = appOn(database, { max: 1, acquireTimeoutMs: 100 })
    const running = app.run({ name: 'nested' }, (scope) =>
      scope.transaction(async () => {
        await backendOf(scope)
        await scope.transaction({ propagation: 'requiresNew' }, () => backendOf(scope))
      }),
    )
    const error = await failureOf(running)
    expect(error).toBeInstanceOf(PoolExhaustedError)
    expect((error as Error).message).toMatch(/This scope holds 1 of them itself.*requiresNew/)
    expect(await poolOf(app)).toMatchObject({ open: 1, idle: 1, leased: 0, waiting: 0 })
  })
})
