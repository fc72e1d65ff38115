import { sql } from 'drizzle-orm'
import { describe, expect, it } from 'vitest'
import { pin } from '../../src/postgres/index.ts'
import { accounts, accountsDatabase, appOn, failureOf } from './fixture.ts'

// A query of drizzle's or postgres.js's is sent when it is awaited. Returned by a function, it is awaited by whoever
// called that: it has to run where the function ran all the same.

const database = await accountsDatabase()

describe('a query that is returned and not awaited', () => {
  it('by the function of a nested scopes.run runs in the inner scope', async () => {
    const app = appOn(database)
    await app.run({ name: 'outer' }, async () => {
      expect(await app.run({ name: 'inner' }, (scope) => scope.db.select().from(accounts))).toEqual([])
    })
  })

  it('by the function of a pin runs on the pinned connection', async () => {
    const app = appOn(database)
    await app.run({ name: 'pins' }, async (scope) => {
      const inside = await pin(scope.db, async () => {
        await scope.db.execute(sql`select set_config('app.secret', 'pinned', false)`)
        return pin(scope.db, () => scope.db.$client`select current_setting('app.secret', true) as secret`)
      })
      expect(inside).toMatchObject([{ secret: 'pinned' }])
      const sole = await pin(
        scope.db,
        () => scope.db.$client`select set_config('app.secret', 'alone', false) as secret`,
      )
      expect(sole).toMatchObject([{ secret: 'alone' }])
      // Had it run on the scope's own lease, that one would still have it.
      expect(await scope.db.$client`select current_setting('app.secret', true) as secret`).not.toMatchObject([
        { secret: 'alone' },
      ])
    })
  })

  it('by the function of a transaction runs in it, and is rolled back with it', async () => {
    const app = appOn(database)
    await app.run({ name: 'transacts' }, async (scope) => {
      const failure = await failureOf(
        scope.transaction(async () => {
          await scope.transaction(() => scope.db.insert(accounts).values({ owner: 'joined' }))
          await scope.transaction({ propagation: 'nested' }, () =>
            scope.db.insert(accounts).values({ owner: 'nested' }),
          )
          await scope.db.transaction((tx) => tx.insert(accounts).values({ owner: 'savepoint' }))
          throw new Error('roll it back')
        }),
      )
      expect(failure).toMatchObject({ message: 'roll it back' })
      expect(await scope.transaction(() => scope.db.select().from(accounts))).toEqual([])
    })
  })

  it('by the function of a notSupported runs outside of the transaction, and stays when that is rolled back', async () => {
    const app = appOn(database)
    await app.run({ name: 'transacts' }, async (scope) => {
      await failureOf(
        scope.transaction(async () => {
          await scope.db.insert(accounts).values({ owner: 'rolled back' })
          await scope.transaction({ propagation: 'notSupported' }, () =>
            scope.db.insert(accounts).values({ owner: 'outside' }),
          )
          throw new Error('roll it back')
        }),
      )
      expect(await scope.db.select({ owner: accounts.owner }).from(accounts)).toEqual([{ owner: 'outside' }])
    })
  })

  it('by a clean-up runs in the ending scope', async () => {
    const app = appOn(database)
    await app.run({ name: 'cleans up' }, (scope) =>
      scope.defer(() => scope.db.insert(accounts).values({ owner: 'from the clean-up' })),
    )
    expect(await database.watch`select from accounts where owner = 'from the clean-up'`).toHaveLength(1)
  })

  it('by an afterCommit function runs', async () => {
    const app = appOn(database)
    await app.run({ name: 'transacts' }, (scope) =>
      scope.transaction(async () => {
        await scope.db.select().from(accounts)
        scope.afterCommit(() => scope.db.insert(accounts).values({ owner: 'after the commit' }))
      }),
    )
    expect(await database.watch`select from accounts where owner = 'after the commit'`).toHaveLength(1)
    expect(app.logs).toEqual([])
  })
})
