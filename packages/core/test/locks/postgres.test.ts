import { describe, expect, it, onTestFinished } from 'vitest'
import { createScopes, InvalidOptionError, LockLostError, LockTimeoutError, type Scope } from '../../src/index.ts'
import { advisoryNumber } from '../../src/locks/postgres-store.ts'
import { memoryLogger } from '../memory-logger.ts'
import { type App, accounts, accountsDatabase, appOn, ownersIn } from '../postgres/fixture.ts'
import { failureOf, freshKey, Gate, until } from './fixture.ts'

const database = await accountsDatabase()
const app = (max = 4) => appOn(database, { max })
const inScope = <Result>(on: App, fn: (scope: Scope & { db: never }) => Promise<Result>) =>
  on.run({ name: 'work' }, fn as never)

/** How many wait for the lock of a key, as the server sees it. */
async function waitersOf(key: string): Promise<number> {
  const number = BigInt.asUintN(64, BigInt(advisoryNumber(key)))
  const [row] = await database.watch<{ count: number }[]>`
    select count(*)::int as count from pg_locks
    where locktype = 'advisory' and not granted and classid = ${String(number >> 32n)}::oid and objid = ${String(number & 0xffffffffn)}::oid`
  return row?.count ?? 0
}

describe('a lock in Postgres', () => {
  it('lets one in at a time, among several runtimes, in scopes and outside of them', async () => {
    const apps = [app(), app()]
    const key = freshKey()
    let inside = 0
    let most = 0
    const work = async () => {
      most = Math.max(most, ++inside)
      await new Promise((resolve) => setImmediate(resolve))
      inside--
    }
    await Promise.all(
      Array.from({ length: 20 }, (_, index) => {
        const on = apps[index % 2] as App
        return index % 4 === 0 ? on.withLock(key, work) : inScope(on, (scope) => scope.lock(key, work))
      }),
    )
    expect(most).toBe(1)
    expect(apps.flatMap((each) => each.snapshot().leases)).toEqual([])
  })

  it('tells held from lost, in bounded time, and the caller’s error wins', async () => {
    const [one, two] = [app(), app()]
    const key = freshKey()
    const mine = new Error('mine')
    await inScope(one, async (scope) => {
      const error = await failureOf(
        scope.lock(key, async () => {
          expect(
            await failureOf(inScope(two, (other) => other.lock(key, { waitMs: 0 }, async () => {}))),
          ).toBeInstanceOf(LockTimeoutError)
          expect(
            await failureOf(inScope(two, (other) => other.lock(key, { waitMs: 50 }, async () => {}))),
          ).toBeInstanceOf(LockTimeoutError)
          throw mine
        }),
      )
      expect(error).toBe(mine)
    })
    await inScope(two, (other) => other.lock(key, { waitMs: 0 }, async () => {}))
  })

  it('grows its fence', async () => {
    const apps = [app(), app()]
    const key = freshKey()
    const fences: number[] = []
    for (let turn = 0; turn < 6; turn++) {
      await inScope(apps[turn % 2] as App, (scope) => scope.lock(key, async (lock) => void fences.push(lock.fence)))
    }
    expect(fences).toEqual([...new Set(fences)].sort((a, b) => a - b))
  })

  it('leaves half of the pool to those who work, however many wait', async () => {
    const on = app(4)
    const key = freshKey()
    const gate = new Gate()
    const done: number[] = []
    const work = (index: number) =>
      on.run({ name: 'work' }, (scope) =>
        scope.lock(key, async () => {
          if (index === 0) await gate.passed
          await scope.db.insert(accounts).values({ owner: `${key} ${index}` })
          done.push(index)
        }),
      )
    const all = [work(0)]
    await until(() => on.snapshot().leases.length === 1)
    for (let index = 1; index <= 10; index++) all.push(work(index))
    await until(async () => (await waitersOf(key)) === 1)
    expect(on.snapshot().leases).toHaveLength(2) // the holder's, and one for all who wait
    gate.open()
    await Promise.all(all)
    expect(done).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
  })

  it('is lost as soon as its connection is, and refuses the next statement', async () => {
    const on = app()
    const key = freshKey()
    const error = await failureOf(
      on.run({ name: 'work' }, (scope) =>
        scope.lock(key, async (lock) => {
          const [lease] = on.snapshot().leases
          await database.watch`select pg_terminate_backend(${lease?.backend ?? 0})`
          await new Promise((resolve) => lock.signal.addEventListener('abort', resolve, { once: true }))
          await scope.db.select().from(accounts).limit(1)
        }),
      ),
    )
    expect(error).toBeInstanceOf(LockLostError)
    expect(error).toMatchObject({ reason: 'taken' })
    await inScope(on, (scope) => scope.lock(key, { waitMs: 500 }, async () => {}))
  })

  it('ends its waiting with its scope’s cancellation, and gives the connection back', async () => {
    const [one, two] = [app(), app()]
    const key = freshKey()
    const controller = new AbortController()
    await inScope(one, (scope) =>
      scope.lock(key, async () => {
        const waiting = two.run({ name: 'waits', signal: controller.signal }, (other) =>
          other.lock(key, async () => {}),
        )
        await until(async () => (await waitersOf(key)) === 1)
        controller.abort()
        expect(await failureOf(waiting)).toMatchObject({ code: 'RSC_SCOPE_ABORTED' })
        expect(two.snapshot().leases).toEqual([])
        expect(await waitersOf(key)).toBe(0)
      }),
    )
  })

  it('ends its waiting with the given signal', async () => {
    const [one, two] = [app(), app()]
    const key = freshKey()
    for (const within of ['connection', 'transaction'] as const) {
      const controller = new AbortController()
      const reason = new Error('enough')
      await inScope(one, (scope) =>
        scope.lock(key, async () => {
          const lock = (other: Scope) => other.lock(key, { signal: controller.signal }, async () => {})
          const waiting = failureOf(
            inScope(two, (other) => (within === 'connection' ? lock(other) : other.transaction(() => lock(other)))),
          )
          await until(async () => (await waitersOf(key)) === 1)
          controller.abort(reason)
          expect(await waiting).toBe(reason)
        }),
      )
    }
  })

  it('refuses what advisory locks can’t do', async () => {
    const on = app()
    await inScope(on, async (scope) => {
      expect(await failureOf(scope.lock(['a', 'b'], async () => {}))).toBeInstanceOf(InvalidOptionError)
      expect(await failureOf(scope.lock('a', { mode: 'shared' }, async () => {}))).toMatchObject({
        option: 'lock.mode',
      })
      expect(await failureOf(scope.lock('a', { limit: 2 }, async () => {}))).toMatchObject({ option: 'lock.limit' })
    })
  })
})

describe('a lock of a transaction in Postgres', () => {
  it('is held on the transaction’s own connection until it has ended', async () => {
    const [one, two] = [app(), app()]
    const key = freshKey()
    await one.run({ name: 'writes' }, async (scope) => {
      await scope.transaction(async () => {
        await scope.lock(key, () => scope.db.insert(accounts).values({ owner: key }))
        expect(one.snapshot().leases).toHaveLength(1)
        expect(await inScope(two, (other) => other.tryLock(key))).toBeUndefined()
      })
      await inScope(two, (other) => other.lock(key, { waitMs: 0 }, async () => {}))
    })
    expect(await ownersIn(database)).toContain(key)
  })

  it('waits in it, and lets it go on where the lock was not to be had', async () => {
    const [one, two] = [app(), app()]
    const key = freshKey()
    await inScope(one, (scope) =>
      scope.lock(key, () =>
        two.run({ name: 'waits' }, (other) =>
          other.transaction(async () => {
            const error = await failureOf(other.lock(key, { waitMs: 40 }, async () => {}))
            expect(error).toBeInstanceOf(LockTimeoutError)
            await other.db.insert(accounts).values({ owner: `without ${key}` })
            const [row] = await other.db.$client<{ limit: string }[]>`select current_setting('lock_timeout') as limit`
            expect(row?.limit).toBe('0')
          }),
        ),
      ),
    )
    expect(await ownersIn(database)).toContain(`without ${key}`)
    const gate = new Gate()
    const held = new Gate()
    const hold = () => {
      held.open()
      return gate.passed
    }
    const holding = inScope(one, (scope) => scope.lock(key, hold))
    await held.passed
    const waiting = two.run({ name: 'waits' }, (other) => other.transaction(() => other.lock(key, async () => 'had')))
    await until(async () => (await waitersOf(key)) === 1)
    gate.open()
    expect(await waiting).toBe('had')
    await holding
  })

  it('is lost with the savepoint it was taken in, and the transaction is not committed', async () => {
    const on = app()
    const key = freshKey()
    const error = await failureOf(
      on.run({ name: 'work' }, (scope) =>
        scope.transaction(async () => {
          await scope
            .transaction({ propagation: 'nested' }, async () => {
              await scope.lock(key, async () => {})
              throw new Error('undo')
            })
            .catch(() => {})
          await scope.lock(key, () => scope.db.insert(accounts).values({ owner: key }))
        }),
      ),
    )
    expect(error).toBeInstanceOf(LockLostError)
    expect(await ownersIn(database)).not.toContain(key)
  })
})

it('is not chosen where a store is given', async () => {
  const store = {
    name: 'mine',
    supports: { shared: true, severalKeys: true },
    acquire: () => Promise.reject(new Error('mine is away')),
    renew: async () => true,
    release: async () => {},
  }
  const scopes = createScopes({ resources: {}, locks: { store }, logger: memoryLogger().logger })
  onTestFinished(() => scopes.close())
  expect(await failureOf(scopes.withLock('k', async () => {}))).toMatchObject({ store: 'mine', statusCode: 503 })
  expect(() => createScopes({ resources: {}, locks: { store: {} as never } })).toThrow(InvalidOptionError)
})
