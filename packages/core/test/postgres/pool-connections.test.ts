import { sql } from 'drizzle-orm'
import { beforeEach, describe, expect, it, vi } from 'vitest'
import { createScopes, defineResource, PoolExhaustedError } from '../../src/index.ts'
import { postgres } from '../../src/postgres/index.ts'
import { heard } from '../heard.ts'
import { memoryLogger } from '../memory-logger.ts'
import { accountsDatabase, appOn, backendOf, backendsOf, failureOf, proxyTo } from './fixture.ts'
import { holder, noBackends } from './pool-fixture.ts'

const database = await accountsDatabase()

// Also says that no connection outlives the runtime of the test before.
beforeEach(() => noBackends(database))

describe('connections', () => {
  it('are closed after idleTimeoutMs without use', async () => {
    const app = appOn(database, { idleTimeoutMs: 80 })
    const closed = heard('reqscope:connection:closed')
    const backend = await app.run({ name: 'once' }, backendOf)
    await vi.waitFor(async () => expect(await backendsOf(database)).toEqual([]), 5_000)
    expect(closed).toMatchObject([{ resource: 'db', backend, reason: expect.stringContaining('idle') }])
    expect(await app.run({ name: 'again' }, backendOf)).not.toBe(backend)
  })

  it('are kept for ever with idleTimeoutMs 0', async () => {
    // The other pool's connection is the clock: it has been idle for as long.
    const [kept, clock] = [appOn(database, { idleTimeoutMs: 0 }), appOn(database, { idleTimeoutMs: 80 })]
    const backend = await kept.run({ name: 'once' }, backendOf)
    const closed = heard('reqscope:connection:closed')
    const other = await clock.run({ name: 'once' }, backendOf)
    await vi.waitFor(() => expect(closed).toMatchObject([{ backend: other }]), 5_000)
    expect(await kept.run({ name: 'again' }, backendOf)).toBe(backend)
  })

  it('older than maxLifetimeMs are closed when idle, and never in use', async () => {
    const app = appOn(database, { max: 2, maxLifetimeMs: 150, idleTimeoutMs: 0 })
    const closed = heard('reqscope:connection:closed')
    const busy = app.run({ name: 'busy' }, (scope) =>
      scope.transaction(async () => {
        const first = await backendOf(scope)
        const idle = await app.run({ name: 'idle' }, backendOf)
        await vi.waitFor(() => expect(closed).toMatchObject([{ backend: idle }]), 5_000)
        expect(closed[0]?.reason).toContain('lifetime')
        expect(await backendOf(scope)).toBe(first)
        return first
      }),
    )
    const backend = await busy
    expect(closed.map((each) => each.backend)).toContain(backend)
    await vi.waitFor(async () => expect(await backendsOf(database)).toEqual([]), 5_000)
    expect(await app.run({ name: 'again' }, backendOf)).toBeGreaterThan(0)
  })

  it('that were killed while idle are replaced, without an error for anybody', async () => {
    const app = appOn(database)
    const closed = heard('reqscope:connection:closed')
    const backend = await app.run({ name: 'before' }, backendOf)
    await database.watch`select pg_terminate_backend(${backend})`
    await vi.waitFor(() => expect(closed).toMatchObject([{ backend }]))
    expect(await app.run({ name: 'after' }, backendOf)).not.toBe(backend)
  })

  it('that were cut while idle are replaced, also when nobody has noticed yet', async () => {
    const proxy = await proxyTo(database)
    const app = appOn(proxy.url(database.url), { validateAfterIdleMs: 0 })
    const backend = await app.run({ name: 'before' }, backendOf)
    proxy.cut()
    expect(await app.run({ name: 'after' }, backendOf)).not.toBe(backend)
  })

  it('that were black-holed while idle are found out by a ping within the acquire timeout, and replaced', async () => {
    const [old, fresh] = [await proxyTo(database), await proxyTo(database)]
    const url = new URL(database.url)
    const app = appOn(database.url.replace(url.host, `127.0.0.1:${old.port},127.0.0.1:${fresh.port}`), {
      max: 3,
      validateAfterIdleMs: 0,
      acquireTimeoutMs: 2_000,
    })
    const holders = await Promise.all([1, 2, 3].map((nr) => holder(app, `holder ${nr}`)))
    await Promise.all(holders.map(({ letGo }) => letGo()))
    const backends = holders.map(({ backend }) => backend)
    expect(old.connections).toBe(3)
    old.refuse()
    old.blackHole()
    const startedAt = performance.now()
    const served = await Promise.all([1, 2, 3].map(() => app.run({ name: 'after' }, backendOf)))
    expect(performance.now() - startedAt).toBeLessThan(2_000)
    for (const backend of served) expect(backends).not.toContain(backend)
  })

  it('that a scope keeps without use are asked as well, so its next statement does not go to one that is dead', async () => {
    const [old, fresh] = [await proxyTo(database), await proxyTo(database)]
    const url = new URL(database.url)
    const app = appOn(database.url.replace(url.host, `127.0.0.1:${old.port},127.0.0.1:${fresh.port}`), {
      validateAfterIdleMs: 80,
      connectTimeoutMs: 5_000,
    })
    const closed = heard('reqscope:connection:closed')
    await app.run({ name: 'awaits a slow API' }, async (scope) => {
      const backend = await backendOf(scope)
      old.refuse()
      old.blackHole()
      await vi.waitFor(
        () => expect(closed).toMatchObject([{ backend, reason: 'it no longer answered after being idle' }]),
        { timeout: 5_000 },
      )
      expect(await backendOf(scope)).not.toBe(backend)
    })
  })

  it('that do not answer a ping let nobody wait longer than acquireTimeoutMs', async () => {
    const proxy = await proxyTo(database)
    const app = appOn(proxy.url(database.url), {
      max: 2,
      validateAfterIdleMs: 0,
      acquireTimeoutMs: 200,
      connectTimeoutMs: 5_000,
    })
    const holders = await Promise.all([1, 2].map((nr) => holder(app, `holder ${nr}`)))
    await Promise.all(holders.map(({ letGo }) => letGo()))
    proxy.blackHole()
    const startedAt = performance.now()
    const error = await failureOf(app.run({ name: 'after' }, backendOf))
    expect(error).toBeInstanceOf(PoolExhaustedError)
    expect(performance.now() - startedAt).toBeLessThan(1_000)
    await proxy.resume()
  })

  it('are asked whether they work only after validateAfterIdleMs', async () => {
    const app = appOn(database, { validateAfterIdleMs: 60_000 })
    const backend = await app.run({ name: 'once' }, (scope) =>
      scope.db.execute(sql`select 1 as one`).then(() => backendOf(scope)),
    )
    await app.run({ name: 'again' }, () => {})
    const [seen] = await backendsOf(database)
    expect(seen).toMatchObject({ pid: backend, query: 'select pg_backend_pid() as pid' })
  })
})

describe('a server that went away', () => {
  it('is an error that says so for statements that need it, and is used again when it is back', async () => {
    const proxy = await proxyTo(database)
    const app = appOn(proxy.url(database.url), { max: 2 })
    const backend = await app.run({ name: 'before' }, backendOf)
    const closed = heard('reqscope:connection:closed')
    proxy.refuse()
    proxy.cut()
    await vi.waitFor(() => expect(closed).toMatchObject([{ backend }]))
    for (let round = 0; round < 3; round++) {
      expect(await failureOf(app.run({ name: 'meanwhile' }, backendOf))).toMatchObject({
        code: 'RSC_CONNECTION_LOST',
        reason: 'unreachable',
        retryAfterMs: expect.any(Number),
      })
    }
    await proxy.resume()
    expect(await app.run({ name: 'after' }, backendOf)).not.toBe(backend)
    expect(app.snapshot().leases).toEqual([])
  })

  it('is replaced for a scope that had a connection of it, with nothing but the statement lost that ran', async () => {
    const app = appOn(database)
    await app.run({ name: 'goes on' }, async (scope) => {
      const backend = await backendOf(scope)
      const closed = heard('reqscope:connection:closed')
      await database.watch`select pg_terminate_backend(${backend})`
      await vi.waitFor(() => expect(closed).toMatchObject([{ backend }]))
      expect(await backendOf(scope)).not.toBe(backend)
    })
  })
})

describe('the runtime', () => {
  it('can be started again after a start that failed on another resource', async () => {
    let works = false
    const flaky = defineResource({
      handle: () => 1,
      start() {
        if (!works) throw new Error('not yet')
      },
    })
    const { logger } = memoryLogger()
    const scopes = createScopes({ resources: { db: postgres({ url: database.url }), flaky }, logger })
    expect(await failureOf(scopes.start())).toMatchObject({ message: 'not yet' })
    await vi.waitFor(async () => expect(await backendsOf(database)).toEqual([]))
    works = true
    expect(await scopes.run({ name: 'works now' }, backendOf)).toBeGreaterThan(0)
    await scopes.close()
  })

  it('has no connection left after it has closed, whatever state they were in', async () => {
    const app = appOn(database, { max: 3 })
    const closed = heard('reqscope:connection:closed')
    const holding = await holder(app)
    await app.run({ name: 'idle' }, backendOf)
    expect(await backendsOf(database)).toHaveLength(2)
    await app.close({ timeoutMs: 200 })
    await vi.waitFor(async () => expect(await backendsOf(database)).toEqual([]))
    expect(closed.map(({ reason }) => reason)).toEqual(['the application closed', 'the application closed'])
    await failureOf(holding.letGo())
  })

  it('leases nothing any more after it has closed', async () => {
    const app = appOn(database)
    await app.run({ name: 'before' }, backendOf)
    const scope = app.open({ id: 'r-1', kind: 'request', name: 'GET /accounts' })
    const { db } = scope
    await app.close({ timeoutMs: 100 })
    expect(await failureOf(backendOf({ db }))).toMatchObject({ code: 'RSC_SCOPE_ENDED' })
  })
})
