import { testRedis } from '@reqscope/services/testing'
import { describe, expect, it, onTestFinished } from 'vitest'
import { createScopes, currentScope, LockLostError, type Scopes } from '../../src/index.ts'
import { postgres } from '../../src/postgres/index.ts'
import type { Resource } from '../../src/scope/resource.ts'
import { memoryLogger } from '../memory-logger.ts'
import { accounts, accountsDatabase, type Database, ownersIn, schema } from '../postgres/fixture.ts'
import {
  block,
  failureOf,
  freshKey,
  Gate,
  lockApp,
  queueLength,
  redisObserver,
  type TestRedis,
  testRedisResource,
  until,
} from './fixture.ts'

const database = await accountsDatabase()

type App = Scopes<{ db: Resource<Database>; redis: TestRedis }>

async function app(): Promise<App> {
  const db = postgres({ url: database.url, schema, max: 3 })
  const redis = testRedisResource({ url: await testRedis() })
  const scopes = createScopes({ resources: { db, redis }, logger: memoryLogger().logger })
  onTestFinished(() => scopes.close({ timeoutMs: 1_000 }))
  return scopes as unknown as App
}

const insert = (db: Database, owner: string) => db.insert(accounts).values({ owner })

describe('a statement under a lock', () => {
  it('is refused once the lock was lost, before anything is sent', async () => {
    const scopes = await app()
    const owner = freshKey()
    await scopes.run({ name: 'work' }, async (scope) => {
      const error = await failureOf(
        scope.lock(owner, { ttlMs: 200 }, async () => {
          await scope.db.select().from(accounts).limit(1)
          block(230)
          await insert(scope.db, owner)
        }),
      )
      expect(error).toBeInstanceOf(LockLostError)
      expect(error).toMatchObject({ reason: 'expired', keys: [owner] })
      await scope.db.select().from(accounts).limit(1) // outside of the lock the scope goes on
    })
    expect(await ownersIn(database)).not.toContain(owner)
  })

  it('is not refused in a parallel branch that is not under the lock', async () => {
    const scopes = await app()
    const key = freshKey()
    await scopes.run({ name: 'work' }, async (scope) => {
      const gate = new Gate()
      const lost = new Gate()
      const beside = (async () => {
        await lost.passed
        return scope.db.select().from(accounts).limit(1)
      })()
      const under = failureOf(
        scope.lock(key, { ttlMs: 100, autoExtend: false }, async (lock) => {
          await new Promise((resolve) => lock.signal.addEventListener('abort', resolve, { once: true }))
          lost.open()
          await gate.passed
        }),
      )
      await beside
      gate.open()
      expect(await under).toBeInstanceOf(LockLostError)
    })
  })

  it('is refused everywhere in the scope when the lost lock was taken by hand', async () => {
    const scopes = await app()
    await scopes.run({ name: 'work' }, async (scope) => {
      const lock = await scope.acquireLock(freshKey(), { ttlMs: 100, autoExtend: false })
      await new Promise((resolve) => lock.signal.addEventListener('abort', resolve, { once: true }))
      expect(await failureOf(scope.db.select().from(accounts))).toBeInstanceOf(LockLostError)
      await lock.release()
      await scope.db.select().from(accounts).limit(1)
    })
  })

  it('is refused where it waited for a connection while the lock was lost', async () => {
    const scopes = await app()
    const owner = freshKey()
    await scopes.run({ name: 'work' }, async (scope) => {
      const gate = new Gate()
      const busy = [1, 2, 3].map(() =>
        scopes.run({ name: 'busy' }, (other) =>
          other.transaction(async () => {
            await other.db.select().from(accounts).limit(1)
            await gate.passed
          }),
        ),
      )
      await until(() => scopes.snapshot().leases.length === 3)
      const error = await failureOf(
        scope.lock(owner, { ttlMs: 100, autoExtend: false }, async (lock) => {
          const inserting = failureOf(insert(scope.db, owner))
          await new Promise((resolve) => lock.signal.addEventListener('abort', resolve, { once: true }))
          gate.open()
          throw await inserting
        }),
      )
      expect(error).toBeInstanceOf(LockLostError)
      await Promise.all(busy)
    })
    expect(await ownersIn(database)).not.toContain(owner)
  })
})

describe('a lock inside a transaction', () => {
  it('is released after the transaction has ended, so that the next holder reads what was written', async () => {
    const scopes = await app()
    const other = await lockApp()
    const watch = await redisObserver()
    const key = freshKey()
    const gate = new Gate()
    const seen: string[] = []
    const inside = new Gate()
    const writing = scopes.run({ name: 'writes' }, (scope) =>
      scope.transaction(async () => {
        await scope.lock(key, () => insert(scope.db, key))
        inside.open()
        await gate.passed
      }),
    )
    await inside.passed
    const reading = other.run({ name: 'reads' }, (scope) =>
      scope.lock(key, async () => void seen.push(...(await ownersIn(database)))),
    )
    await until(async () => (await queueLength(watch, key)) === 1)
    expect(seen).toEqual([])
    gate.open()
    await Promise.all([writing, reading])
    expect(seen).toContain(key)
  })

  it('is released after a rollback, too', async () => {
    const scopes = await app()
    const other = await lockApp()
    const key = freshKey()
    const mine = new Error('mine')
    const error = await failureOf(
      scopes.run({ name: 'writes' }, (scope) =>
        scope.transaction(async () => {
          await scope.lock(key, () => insert(scope.db, key))
          throw mine
        }),
      ),
    )
    expect(error).toBe(mine)
    await other.run({ name: 'next' }, (scope) => scope.lock(key, { waitMs: 500 }, async () => {}))
  })

  it('refuses the commit once it was lost', async () => {
    const scopes = await app()
    const key = freshKey()
    const error = await failureOf(
      scopes.run({ name: 'writes' }, (scope) =>
        scope.transaction(async () => {
          await scope.lock(key, { ttlMs: 200 }, () => insert(scope.db, key))
          block(230)
        }),
      ),
    )
    expect(error).toBeInstanceOf(LockLostError)
    expect(await ownersIn(database)).not.toContain(key)
  })

  it('refuses the commit of a transaction that stands under it, too', async () => {
    const scopes = await app()
    const key = freshKey()
    const error = await failureOf(
      scopes.run({ name: 'writes' }, (scope) =>
        scope.lock(key, { ttlMs: 200 }, () =>
          currentScope().transaction(async () => {
            await insert(scope.db, key)
            block(230)
          }),
        ),
      ),
    )
    expect(error).toBeInstanceOf(LockLostError)
    expect(await ownersIn(database)).not.toContain(key)
  })

  it('is entered again at once in the same transaction, one branch at a time', async () => {
    const scopes = await app()
    const key = freshKey()
    let inside = 0
    let most = 0
    await scopes.run({ name: 'work' }, (scope) =>
      scope.transaction(async () => {
        const fences: number[] = []
        const turn = () =>
          scope.lock(key, async (lock) => {
            most = Math.max(most, ++inside)
            await scope.db.select().from(accounts).limit(1)
            inside--
            fences.push(lock.fence)
          })
        await turn()
        await Promise.all([turn(), turn(), turn()])
        expect(new Set(fences).size).toBe(1)
      }),
    )
    expect(most).toBe(1)
  })

  it('is released after the commit of a transaction that an adapter ends', async () => {
    const scopes = await app()
    const other = await lockApp()
    const key = freshKey()
    await scopes.run({ name: 'route' }, async (scope) => {
      const transaction = scope.openTransaction({})
      await transaction.run(() => scope.lock(key, () => insert(scope.db, key)))
      expect(await other.run({ name: 'asks' }, (asking) => asking.tryLock(key))).toBeUndefined()
      await transaction.commit()
      await other.run({ name: 'asks' }, (asking) => asking.lock(key, { waitMs: 500 }, async () => {}))
    })
    expect(await ownersIn(database)).toContain(key)
  })

  it('is released when its scope ends without its transaction having ended, after the rollback', async () => {
    const scopes = await app()
    const other = await lockApp()
    const key = freshKey()
    await scopes.run({ name: 'careless' }, async (scope) => {
      const inside = new Gate()
      scope
        .transaction(async () => {
          await scope.lock(key, () => insert(scope.db, key))
          inside.open()
          await new Promise(() => {})
        })
        .catch(() => {})
      await inside.passed
    })
    expect(await ownersIn(database)).not.toContain(key)
    await other.run({ name: 'next' }, (scope) => scope.lock(key, { waitMs: 500 }, async () => {}))
  })
})
