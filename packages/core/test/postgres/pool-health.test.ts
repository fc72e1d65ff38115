import { sql } from 'drizzle-orm'
import { beforeEach, describe, expect, it } from 'vitest'
import { here } from '../here.ts'
import { accountsDatabase, appOn, backendOf, proxyTo } from './fixture.ts'
import { holder, noBackends, waiting } from './pool-fixture.ts'

const database = await accountsDatabase()

// Also says that no connection outlives the runtime of the test before.
beforeEach(() => noBackends(database))

describe('health', () => {
  it('is up while there is a connection that works, and counts what the pool has', async () => {
    const app = appOn(database, { max: 7 })
    const holding = await holder(app)
    expect(await app.health()).toMatchObject({
      status: 'up',
      state: 'open',
      resources: { db: { status: 'up', pool: { max: 7, open: 1, idle: 0, leased: 1, opening: 0, waiting: 0 } } },
    })
    await holding.letGo()
  })

  it('is degraded while somebody waits', async () => {
    const app = appOn(database, { max: 1 })
    const holding = await holder(app)
    const other = app.run({ name: 'waits' }, backendOf)
    await waiting(app, 1)
    expect((await app.health()).status).toBe('degraded')
    await holding.letGo()
    await other
  })

  it('is down once the server is gone, says why, and is up again by itself when the server is back', async () => {
    const proxy = await proxyTo(database)
    const app = appOn(proxy.url(database.url))
    await app.run({ name: 'before' }, backendOf)
    proxy.refuse()
    proxy.cut()
    const down = {
      status: 'down',
      resources: { db: { status: 'down', error: expect.stringContaining('ECONNREFUSED') } },
    }
    await expect.poll(() => app.health()).toMatchObject(down)
    await proxy.resume()
    expect(await app.health()).toMatchObject({ status: 'up', resources: { db: { pool: { open: 1 } } } })
    expect((await app.health()).resources.db).not.toHaveProperty('error')
  })

  it('is down for a server that answers no more, within the time a connection may take', async () => {
    const proxy = await proxyTo(database)
    const app = appOn(proxy.url(database.url), { validateAfterIdleMs: 0, connectTimeoutMs: 300, acquireTimeoutMs: 200 })
    await app.run({ name: 'before' }, backendOf)
    proxy.blackHole()
    expect(await app.health()).toMatchObject({ status: 'down', resources: { db: { pool: { open: 0 } } } })
    await proxy.resume()
    expect((await app.health()).status).toBe('up')
  })
})

describe('scopes.snapshot', () => {
  it('says who holds the connections: scope, backend, since when, with which statement, and where it was taken', async () => {
    const app = appOn(database)
    const takenAt = here(2)
    await app.run({ name: 'nightly', id: 't-1' }, (scope) =>
      scope.transaction(async () => {
        await scope.db.execute(sql`select 1 as one`)
        const { leases, openScopes } = app.snapshot()
        expect(openScopes).toEqual({ total: 1, request: 0, job: 0, task: 1 })
        expect(leases).toEqual([
          {
            resource: 'db',
            scope: { id: 't-1', kind: 'task', name: 'nightly' },
            backend: await backendOf(scope),
            state: 'transaction',
            heldMs: expect.any(Number),
            statement: 'select 1 as one',
            site: expect.stringContaining(takenAt),
          },
        ])
      }),
    )
    expect(app.snapshot()).toMatchObject({ state: 'open', openScopes: { total: 0 }, leases: [] })
  })

  it('names the longest-held lease first', async () => {
    const app = appOn(database)
    const first = await holder(app, 'first')
    const second = await holder(app, 'second')
    expect(app.snapshot().leases.map(({ scope }) => scope.name)).toEqual(['first', 'second'])
    await Promise.all([first.letGo(), second.letGo()])
  })
})
