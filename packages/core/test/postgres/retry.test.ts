import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { eq, sql } from 'drizzle-orm'
import { beforeEach, describe, expect, it, onTestFinished, vi } from 'vitest'
import { DeadlineExceededError, type Resource, type ScopeWith, TransactionEndedError } from '../../src/index.ts'
import { heard } from '../heard.ts'
import { accounts, accountsDatabase, appOn, backendOf, type Database, failureOf, Gate } from './fixture.ts'

const database = await accountsDatabase()
const { watch } = database
type AppScope = ScopeWith<{ db: Resource<Database> }>

beforeEach(async () => {
  await watch`truncate accounts restart identity`
  await watch`insert into accounts (owner, balance) values ('ann', 100), ('bob', 100)`
})

/** Another one changes the row after the transaction's snapshot was taken: under repeatable read its own update then fails with 40001. */
async function updateThatConflicts(scope: AppScope, conflicts: boolean): Promise<void> {
  const [row] = await scope.db.select().from(accounts).where(eq(accounts.id, 1))
  if (conflicts) await watch`update accounts set balance = balance + 1 where id = 1`
  await scope.db
    .update(accounts)
    .set({ balance: (row?.balance ?? 0) + 10 })
    .where(eq(accounts.id, 1))
}

const balances = async () =>
  (await watch<{ balance: number }[]>`select balance from accounts order by id`).map(({ balance }) => balance)

describe('retries', () => {
  it('run the function again after a serialization failure (40001), in a new transaction', async () => {
    const app = appOn(database)
    const retried = heard('reqscope:transaction:retried')
    let attempts = 0
    await app.run({ name: 'transfer' }, async (scope) => {
      const result = await scope.transaction({ isolationLevel: 'repeatable read', retries: 3 }, async () => {
        attempts++
        await updateThatConflicts(scope, attempts <= 2)
        return `attempt ${attempts}`
      })
      expect(result).toBe('attempt 3')
    })
    expect(await balances()).toEqual([112, 100])
    expect(retried).toMatchObject([
      { attempt: 0, scope: { name: 'transfer' }, cause: { cause: { code: '40001' } } },
      { attempt: 1, scope: { name: 'transfer' }, cause: { cause: { code: '40001' } } },
    ])
  })

  it('stop at their number, and the last failure is what the caller gets', async () => {
    const app = appOn(database)
    let attempts = 0
    await app.run({ name: 'transfer' }, async (scope) => {
      const failure = await failureOf(
        scope.transaction({ isolationLevel: 'repeatable read', retries: 2 }, async () => {
          attempts++
          await updateThatConflicts(scope, true)
        }),
      )
      expect(failure).toMatchObject({ cause: { code: '40001' } })
    })
    expect(attempts).toBe(3)
    expect(await balances()).toEqual([103, 100])
  })

  it('are none by default', async () => {
    const app = appOn(database)
    let attempts = 0
    await app.run({ name: 'transfer' }, async (scope) => {
      const work = scope.transaction({ isolationLevel: 'repeatable read' }, async () => {
        attempts++
        await updateThatConflicts(scope, true)
      })
      expect(await failureOf(work)).toMatchObject({ cause: { code: '40001' } })
    })
    expect(attempts).toBe(1)
  })

  it('resolve a real write skew between two serializable transactions, which fails at COMMIT', async () => {
    const app = appOn(database)
    const bothRead = [new Gate(), new Gate()]
    const attempts = [0, 0]
    // Both may withdraw as long as the sum stays positive: run one after another, only one of them can.
    const withdraw = (index: number) =>
      app.run({ name: `withdraw ${index}` }, (scope) =>
        scope.transaction({ isolationLevel: 'serializable', retries: 5 }, async () => {
          attempts[index] = (attempts[index] ?? 0) + 1
          const rows = await scope.db.select().from(accounts)
          const sum = rows.reduce((total, { balance }) => total + balance, 0)
          bothRead[index]?.open()
          await Promise.all(bothRead.map(({ passed }) => passed))
          if (sum < 200) return 'refused'
          await scope.db
            .update(accounts)
            .set({ balance: sql`${accounts.balance} - 200` })
            .where(eq(accounts.id, index + 1))
          return 'withdrawn'
        }),
      )
    const results = await Promise.all([withdraw(0), withdraw(1)])
    expect(results.sort()).toEqual(['refused', 'withdrawn'])
    expect(attempts.sort()).toEqual([1, 2])
    expect((await balances()).sort((a, b) => a - b)).toEqual([-100, 100])
  })

  it('resolve a real deadlock (40P01) between two transactions', async () => {
    const app = appOn(database, { settings: { deadlock_timeout: '50ms' } })
    const bothLocked = [new Gate(), new Gate()]
    const attempts = [0, 0]
    const transfer = (index: number) =>
      app.run({ name: `transfer ${index}` }, (scope) =>
        scope.transaction({ retries: 3 }, async () => {
          attempts[index] = (attempts[index] ?? 0) + 1
          const add = (id: number) =>
            scope.db
              .update(accounts)
              .set({ balance: sql`${accounts.balance} + 1` })
              .where(eq(accounts.id, id))
          await add(index === 0 ? 1 : 2)
          bothLocked[index]?.open()
          await Promise.all(bothLocked.map(({ passed }) => passed))
          await add(index === 0 ? 2 : 1)
        }),
      )
    await Promise.all([transfer(0), transfer(1)])
    expect(attempts.sort()).toEqual([1, 2])
    expect(await balances()).toEqual([102, 102])
  })

  it('come also when the function swallowed the failure, since nothing could be committed', async () => {
    const app = appOn(database)
    let attempts = 0
    await app.run({ name: 'transfer' }, async (scope) => {
      await scope.transaction({ isolationLevel: 'repeatable read', retries: 1 }, async () => {
        attempts++
        await updateThatConflicts(scope, attempts === 1).catch(() => {})
      })
    })
    expect(attempts).toBe(2)
    expect(await balances()).toEqual([111, 100])
  })

  it('come also when the function hid the failure behind an error of its own', async () => {
    const app = appOn(database)
    let attempts = 0
    await app.run({ name: 'transfer' }, async (scope) => {
      await scope.transaction({ isolationLevel: 'repeatable read', retries: 1 }, async () => {
        attempts++
        await updateThatConflicts(scope, attempts === 1).catch(() => {
          throw new Error('the transfer failed')
        })
      })
    })
    expect(attempts).toBe(2)
  })

  it('never come for another error', async () => {
    const app = appOn(database)
    const fn = vi.fn(async () => {
      throw new Error('out of stock')
    })
    await app.run({ name: 'transfer' }, async (scope) => {
      expect(await failureOf(scope.transaction({ retries: 5 }, fn))).toMatchObject({ message: 'out of stock' })
      const twice = vi.fn(() => scope.db.insert(accounts).values({ id: 1, owner: 'twice' }))
      expect(await failureOf(scope.transaction({ retries: 5 }, twice))).toMatchObject({ cause: { code: '23505' } })
      expect(twice).toHaveBeenCalledTimes(1)
    })
    expect(fn).toHaveBeenCalledTimes(1)
  })

  it('undo what an attempt had registered for after its commit, and run it once', async () => {
    const app = appOn(database)
    const committed: number[] = []
    let attempts = 0
    await app.run({ name: 'transfer' }, async (scope) => {
      await scope.transaction({ isolationLevel: 'repeatable read', retries: 3 }, async () => {
        const attempt = ++attempts
        scope.afterCommit(() => committed.push(attempt))
        await updateThatConflicts(scope, attempt === 1)
      })
    })
    expect(committed).toEqual([2])
  })

  it('keep the connection the first attempt had', async () => {
    const app = appOn(database)
    const backends: number[] = []
    await app.run({ name: 'transfer' }, async (scope) => {
      await scope.transaction({ isolationLevel: 'repeatable read', retries: 3 }, async () => {
        backends.push(await backendOf(scope))
        await updateThatConflicts(scope, backends.length === 1)
      })
    })
    expect(backends).toHaveLength(2)
    expect(backends[1]).toBe(backends[0])
  })

  it('end when the deadline passes', async () => {
    const app = appOn(database)
    const failure = await failureOf(
      app.run({ name: 'transfer', timeoutMs: 300 }, (scope) =>
        scope.transaction({ isolationLevel: 'repeatable read', retries: 100 }, () => updateThatConflicts(scope, true)),
      ),
    )
    // Either a statement meets the deadline, or the wait before an attempt does: then the last failure is told.
    if (!(failure instanceof DeadlineExceededError)) expect(failure).toMatchObject({ cause: { code: '40001' } })
  })

  it('wait a random while that doubles, before each attempt', async () => {
    const app = appOn(database)
    const waits: number[] = []
    let failedAt = 0
    const note = () => void (failedAt = performance.now())
    subscribe('reqscope:transaction:retried', note)
    onTestFinished(() => void unsubscribe('reqscope:transaction:retried', note))
    await app.run({ name: 'transfer' }, async (scope) => {
      const work = scope.transaction({ isolationLevel: 'repeatable read', retries: 4 }, async () => {
        if (failedAt > 0) waits.push(performance.now() - failedAt)
        await updateThatConflicts(scope, true)
      })
      await failureOf(work)
    })
    expect(waits).toHaveLength(4)
    // Between a half and all of 10, 20, 40 and 80 ms; timers of Node may fire a millisecond early.
    for (const [index, waited] of waits.entries()) expect(waited).toBeGreaterThanOrEqual(5 * 2 ** index - 1)
  })

  it('are told apart from what a savepoint has undone', async () => {
    const app = appOn(database)
    let attempts = 0
    await app.run({ name: 'transfer' }, async (scope) => {
      const failure = await failureOf(
        scope.transaction({ isolationLevel: 'repeatable read', retries: 3 }, async () => {
          attempts++
          await failureOf(scope.db.transaction(() => updateThatConflicts(scope, true)))
          throw new Error('for another reason')
        }),
      )
      expect(failure).toMatchObject({ message: 'for another reason' })
    })
    expect(attempts).toBe(1)
  })
})

it('a transaction that cannot be repeated says so with the failure that was swallowed', async () => {
  const app = appOn(database)
  await app.run({ name: 'transfer' }, async (scope) => {
    const failure = await failureOf(
      scope.transaction({ isolationLevel: 'repeatable read' }, async () => {
        await updateThatConflicts(scope, true).catch(() => {})
      }),
    )
    expect(failure).toBeInstanceOf(TransactionEndedError)
    expect(failure).toMatchObject({ reason: 'aborted', cause: { code: '40001' } })
  })
})
