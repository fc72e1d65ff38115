import { AsyncLocalStorage } from 'node:async_hooks'
import { beforeEach, describe, expect, it } from 'vitest'
import { DeadlineExceededError, TransactionEndedError } from '../../src/index.ts'
import { crashes } from '../crashes.ts'
import { accounts, accountsDatabase, appOn, failureOf, Gate, ownersIn } from './fixture.ts'

const database = await accountsDatabase()
const { watch } = database

beforeEach(async () => {
  await watch`truncate accounts restart identity`
})

describe('work that a transaction began and did not wait for', () => {
  it('belongs to it, when it is a statement', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      await scope.transaction(async () => {
        scope.db.insert(accounts).values({ owner: 'not awaited' }).execute()
      })
      expect(await ownersIn(database)).toEqual(['not awaited'])
    })
  })

  it('is undone with it, when it is a statement and the function throws', async () => {
    const app = appOn(database)
    const found = crashes()
    await app.run({ name: 'order' }, async (scope) => {
      const mistake = new Error('no')
      const work = scope.transaction(async () => {
        scope.db.insert(accounts).values({ owner: 'not awaited' }).execute()
        throw mistake
      })
      expect(await failureOf(work)).toBe(mistake)
      await scope.db.select().from(accounts)
    })
    expect(await ownersIn(database)).toEqual([])
    expect(found).toEqual([])
  })

  it('makes it fail, when it is a statement that fails after the function has returned', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      const failed: unknown[] = []
      const failure = await failureOf(
        scope.transaction(async () => {
          await scope.db.insert(accounts).values({ id: 1, owner: 'ann' })
          scope.db
            .insert(accounts)
            .values({ id: 1, owner: 'twice' })
            .execute()
            .catch((error: unknown) => failed.push(error))
        }),
      )
      expect(failure).toBeInstanceOf(TransactionEndedError)
      expect(failure).toMatchObject({ reason: 'aborted', cause: { code: '23505' } })
      expect(failed).toHaveLength(1)
    })
    expect(await ownersIn(database)).toEqual([])
  })

  it('is waited for, when it is a nested transaction, and belongs to it', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      const gate = new Gate()
      const outer = scope.db.transaction(async (tx) => {
        await tx.insert(accounts).values({ owner: 'outer' })
        void tx.transaction(async (inner) => {
          await inner.insert(accounts).values({ owner: 'inner, first' })
          await gate.passed
          await inner.insert(accounts).values({ owner: 'inner, second' })
        })
      })
      await watch`select 1`
      expect(await ownersIn(database)).toEqual([])
      gate.open()
      await outer
      expect(await ownersIn(database)).toEqual(['outer', 'inner, first', 'inner, second'])
    })
  })

  it('is waited for, when it is a transaction that joined, and makes it fail when that fails', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      const gate = new Gate()
      const mistake = new Error('in the joined one')
      let joined: Promise<unknown> = Promise.resolve()
      const outer = scope.transaction(async () => {
        await scope.db.insert(accounts).values({ owner: 'outer' })
        joined = failureOf(
          scope.transaction(async () => {
            await gate.passed
            throw mistake
          }),
        )
      })
      gate.open()
      const failure = await failureOf(outer)
      expect(failure).toBeInstanceOf(TransactionEndedError)
      expect(failure).toMatchObject({ reason: 'rollback-only', cause: mistake })
      expect(await joined).toBe(mistake)
    })
    expect(await ownersIn(database)).toEqual([])
  })

  it('is refused what it does later, when the function threw meanwhile, and its error leaves no statement behind', async () => {
    const app = appOn(database)
    const found = crashes()
    await app.run({ name: 'order' }, async (scope) => {
      const inside = new Gate()
      const gate = new Gate()
      const mistake = new Error('outer')
      let inner: Promise<unknown> = Promise.resolve()
      const outer = scope.db.transaction(async (tx) => {
        inner = failureOf(
          tx.transaction(async (level) => {
            await level.insert(accounts).values({ owner: 'inner, first' })
            inside.open()
            await gate.passed
            await level.insert(accounts).values({ owner: 'inner, second' })
          }),
        )
        await inside.passed
        throw mistake
      })
      expect(await failureOf(outer)).toBe(mistake)
      gate.open()
      expect(await inner).toMatchObject({ code: 'RSC_TRANSACTION_ENDED', reason: 'used-after-end' })
      await scope.db.insert(accounts).values({ owner: 'after' })
    })
    expect(await ownersIn(database)).toEqual(['after'])
    expect(found).toEqual([])
  })

  it('that never finishes holds the commit back no longer than until the deadline', async () => {
    const app = appOn(database)
    const failure = await failureOf(
      app.run({ name: 'order', timeoutMs: 150 }, (scope) =>
        scope.db.transaction(async (tx) => {
          await tx.insert(accounts).values({ owner: 'outer' })
          tx.transaction(() => new Promise(() => {})).catch(() => {})
        }),
      ),
    )
    expect(failure).toBeInstanceOf(DeadlineExceededError)
    expect(await ownersIn(database)).toEqual([])
    expect(app.snapshot().leases).toEqual([])
  })

  it('never runs in autocommit, when it goes on by ancestry after the transaction has committed', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      const committed = new Gate()
      let late: Promise<unknown> = Promise.resolve()
      await scope.transaction(async () => {
        await scope.db.insert(accounts).values({ owner: 'in time' })
        late = failureOf(committed.passed.then(() => scope.db.insert(accounts).values({ owner: 'late' })))
      })
      committed.open()
      const failure = await late
      expect(failure).toBeInstanceOf(TransactionEndedError)
      expect(failure).toMatchObject({
        reason: 'used-after-end',
        message: expect.stringContaining('after it had been committed'),
      })
    })
    expect(await ownersIn(database)).toEqual(['in time'])
  })

  it('can neither join nor nest nor pin nor open a cursor there any more', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      let later: <Result>(fn: () => Result) => Result = (fn) => fn()
      await scope.transaction(async () => {
        await scope.db.insert(accounts).values({ owner: 'in time' })
        later = AsyncLocalStorage.snapshot()
      })
      const insert = () => scope.db.insert(accounts).values({ owner: 'late' })
      const attempts = [
        () => scope.transaction(insert),
        () => scope.transaction({ propagation: 'nested' }, insert),
        () => scope.db.transaction(insert),
        () => scope.db.$client.begin((sql) => sql`insert into accounts (owner) values ('late')`),
        () => scope.db.$client`select 1`.cursor(1, () => {}),
      ]
      for (const attempt of attempts) {
        expect(await failureOf(later(attempt))).toMatchObject({
          code: 'RSC_TRANSACTION_ENDED',
          reason: 'used-after-end',
        })
      }
      await later(() => scope.transaction({ propagation: 'requiresNew' }, insert))
    })
    expect(await ownersIn(database)).toEqual(['in time', 'late'])
  })
})
