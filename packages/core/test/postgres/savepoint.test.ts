import { AsyncLocalStorage } from 'node:async_hooks'
import { eq, sql, TransactionRollbackError } from 'drizzle-orm'
import { beforeEach, describe, expect, it } from 'vitest'
import { DeadlineExceededError, SharedConnectionError, TransactionEndedError } from '../../src/index.ts'
import { accounts, accountsDatabase, appOn, failureOf, Gate, ownersIn } from './fixture.ts'

// Taken while no scope is around.
const outside = AsyncLocalStorage.snapshot()

const database = await accountsDatabase()
const { watch } = database

beforeEach(async () => {
  await watch`truncate accounts restart identity`
})

const mistake = new Error('only this part')

describe('db.transaction inside a transaction', () => {
  it('is a savepoint: what it threw undoes its own part and leaves the rest', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      await scope.db.transaction(async (tx) => {
        await tx.insert(accounts).values({ owner: 'before' })
        const failure = await failureOf(
          tx.transaction(async (inner) => {
            await inner.insert(accounts).values({ owner: 'undone' })
            throw mistake
          }),
        )
        expect(failure).toBe(mistake)
        await tx.insert(accounts).values({ owner: 'after' })
      })
    })
    expect(await ownersIn(database)).toEqual(['before', 'after'])
  })

  it('recovers from an error of the server: what failed in it does not abort the transaction', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      await scope.transaction(async () => {
        await scope.db.insert(accounts).values({ id: 1, owner: 'ann' })
        const failure = await failureOf(
          scope.db.transaction((tx) => tx.insert(accounts).values({ id: 1, owner: 'twice' })),
        )
        expect(failure).toMatchObject({ cause: { code: '23505' } })
        await scope.db.insert(accounts).values({ id: 2, owner: 'bob' })
      })
    })
    expect(await ownersIn(database)).toEqual(['ann', 'bob'])
  })

  it('resolves to what its function returned, and is kept with the transaction', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      const failure = await failureOf(
        scope.db.transaction(async (tx) => {
          const [row] = await tx.transaction((inner) => inner.insert(accounts).values({ owner: 'ann' }).returning())
          expect(row).toMatchObject({ owner: 'ann' })
          throw mistake
        }),
      )
      expect(failure).toBe(mistake)
    })
    expect(await ownersIn(database)).toEqual([])
  })

  it('nests as deep as one likes, each level undone by itself', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      await scope.db.transaction(async (one) => {
        await one.insert(accounts).values({ owner: 'one' })
        await one.transaction(async (two) => {
          await two.insert(accounts).values({ owner: 'two' })
          await failureOf(
            two.transaction(async (three) => {
              await three.insert(accounts).values({ owner: 'three' })
              await three.transaction((four) => four.insert(accounts).values({ owner: 'four' }))
              throw mistake
            }),
          )
        })
      })
    })
    expect(await ownersIn(database)).toEqual(['one', 'two'])
  })

  it('takes what runs by ancestry into the innermost level, and what runs through an outer handle too', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      await scope.db.transaction(async (tx) => {
        await failureOf(
          tx.transaction(async () => {
            await scope.db.insert(accounts).values({ owner: 'by ancestry' })
            await tx.insert(accounts).values({ owner: 'by the outer handle' })
            throw mistake
          }),
        )
        await tx.insert(accounts).values({ owner: 'outer' })
      })
    })
    expect(await ownersIn(database)).toEqual(['outer'])
  })

  it('rejects when its function swallowed the error of a statement, and undoes only its own part', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      await scope.db.transaction(async (tx) => {
        await tx.insert(accounts).values({ id: 1, owner: 'ann' })
        const failure = await failureOf(
          tx.transaction(async (inner) => {
            await inner.insert(accounts).values({ id: 2, owner: 'undone' })
            await inner
              .insert(accounts)
              .values({ id: 1, owner: 'twice' })
              .catch(() => {})
          }),
        )
        expect(failure).toBeInstanceOf(TransactionEndedError)
        expect(failure).toMatchObject({ reason: 'aborted', cause: { code: '23505' } })
        await tx.insert(accounts).values({ id: 3, owner: 'bob' })
      })
    })
    expect(await ownersIn(database)).toEqual(['ann', 'bob'])
  })

  it('takes tx.rollback() as drizzle does, at each level', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      await scope.db.transaction(async (tx) => {
        await tx.insert(accounts).values({ owner: 'kept' })
        const failure = await failureOf(
          tx.transaction(async (inner) => {
            await inner.insert(accounts).values({ owner: 'undone' })
            inner.rollback()
          }),
        )
        expect(failure).toBeInstanceOf(TransactionRollbackError)
      })
      const failure = await failureOf(
        scope.db.transaction(async (tx) => {
          await tx.insert(accounts).values({ owner: 'undone too' })
          tx.rollback()
        }),
      )
      expect(failure).toBeInstanceOf(TransactionRollbackError)
    })
    expect(await ownersIn(database)).toEqual(['kept'])
  })

  it('is what $client.begin and savepoint are, inside a transaction', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      await scope.db.$client.begin(async (outer) => {
        await outer`insert into accounts (owner) values ('kept')`
        const byName = outer.savepoint('part', async (inner) => {
          await inner`insert into accounts (owner) values ('undone')`
          throw mistake
        })
        expect(await failureOf(byName)).toBe(mistake)
        const byBegin = scope.db.$client.begin(async (inner) => {
          await inner`insert into accounts (owner) values ('undone too')`
          throw mistake
        })
        expect(await failureOf(byBegin)).toBe(mistake)
      })
    })
    expect(await ownersIn(database)).toEqual(['kept'])
  })

  it('has a handle that throws once its level is over, although the transaction goes on', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      await scope.db.transaction(async (tx) => {
        const leaked = await tx.transaction(async (inner) => ({ inner }))
        const failure = await failureOf(leaked.inner.insert(accounts).values({ owner: 'late' }))
        expect(failure).toBeInstanceOf(TransactionEndedError)
        expect(failure).toMatchObject({ reason: 'used-after-end' })
        await tx.insert(accounts).values({ owner: 'still open' })
      })
    })
    expect(await ownersIn(database)).toEqual(['still open'])
  })
})

describe('one savepoint is open at a time', () => {
  it('so the second of two siblings begins when the first is over', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      await scope.db.transaction(async (tx) => {
        const steps: string[] = []
        const firstIsIn = new Gate()
        const first = tx.transaction(async (inner) => {
          steps.push('first in')
          await inner.insert(accounts).values({ owner: 'first' })
          await firstIsIn.passed
          steps.push('first out')
        })
        const second = tx.transaction(async (inner) => {
          steps.push('second in')
          await inner.insert(accounts).values({ owner: 'second' })
        })
        // A round trip of another connection: plenty of turns for the second to begin wrongly.
        await watch`select 1`
        expect(steps).toEqual(['first in'])
        firstIsIn.open()
        await Promise.all([first, second])
        expect(steps).toEqual(['first in', 'first out', 'second in'])
      })
    })
    expect(await ownersIn(database)).toEqual(['first', 'second'])
  })

  it('so a statement of the outer level from another branch waits, and is not undone with the savepoint', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      await scope.db.transaction(async (tx) => {
        const inserted = new Gate()
        const outerSent = new Gate()
        const inner = tx.transaction(async (level) => {
          await level.insert(accounts).values({ owner: 'undone' })
          inserted.open()
          await outerSent.passed
          await watch`select 1`
          throw mistake
        })
        await inserted.passed
        const outer = tx.insert(accounts).values({ owner: 'outer' }).execute()
        outerSent.open()
        expect(await failureOf(inner)).toBe(mistake)
        await outer
      })
    })
    expect(await ownersIn(database)).toEqual(['outer'])
  })

  it('so many siblings at once, some of them throwing, keep exactly what the others did', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      await scope.transaction(async () => {
        const siblings = Array.from({ length: 12 }, (_, index) =>
          scope.db.transaction(async (tx) => {
            await tx.insert(accounts).values({ owner: `owner ${index}` })
            await scope.db.select().from(accounts).where(eq(accounts.owner, 'nobody'))
            if (index % 3 === 0) throw mistake
          }),
        )
        const settled = await Promise.allSettled(siblings)
        expect(settled.map(({ status }) => status === 'rejected')).toEqual(siblings.map((_, index) => index % 3 === 0))
      })
    })
    const kept = Array.from({ length: 12 }, (_, index) => index).filter((index) => index % 3 !== 0)
    expect(await ownersIn(database)).toEqual(kept.map((index) => `owner ${index}`))
  })

  it('so what waits for its turn behind one is refused at the deadline instead of for ever', async () => {
    const app = appOn(database)
    const failure = await failureOf(
      app.run({ name: 'order', timeoutMs: 150 }, (scope) =>
        scope.db.transaction(async (tx) => {
          const inside = new Gate()
          // A library that lost the context uses the outer handle inside the savepoint: it waits for its own end.
          const outside = lostContext(() => tx.insert(accounts).values({ owner: 'stuck' }).execute())
          await tx.transaction(async (inner) => {
            await inner.insert(accounts).values({ owner: 'ann' })
            inside.open()
            await outside()
          })
        }),
      ),
    )
    expect(failure).toBeInstanceOf(DeadlineExceededError)
    expect(await ownersIn(database)).toEqual([])
  })
})

describe('a cursor and a savepoint on one connection', () => {
  it('exclude each other: a nested transaction inside the loop of its own transaction is refused, clearly', async () => {
    const app = appOn(database)
    await watch`insert into accounts (owner) select 'row ' || n from generate_series(1, 5) n`
    await app.run({ name: 'order' }, async (scope) => {
      await scope.transaction(async () => {
        const seen: string[] = []
        const rows = scope.db.$client<{ owner: string }[]>`select owner from accounts order by id`
        for await (const batch of rows.cursor(1)) {
          seen.push(...batch.map(({ owner }) => owner))
          const failure = await failureOf(scope.db.transaction((tx) => tx.insert(accounts).values({ owner: 'inside' })))
          expect(failure).toBeInstanceOf(SharedConnectionError)
        }
        expect(seen).toEqual(['row 1', 'row 2', 'row 3', 'row 4', 'row 5'])
        await scope.db.insert(accounts).values({ owner: 'after' })
      })
    })
    expect(await ownersIn(database)).toEqual(['row 1', 'row 2', 'row 3', 'row 4', 'row 5', 'after'])
  })

  it('exclude each other: a nested transaction that leaves one open is refused, and does not hang', async () => {
    const app = appOn(database)
    await watch`insert into accounts (owner) select 'row ' || n from generate_series(1, 5) n`
    await app.run({ name: 'order' }, async (scope) => {
      const failure = await failureOf(
        scope.transaction(() =>
          scope.db.transaction(async () => {
            const rows = scope.db.$client`select owner from accounts`.cursor(1)[Symbol.asyncIterator]()
            await rows.next()
          }),
        ),
      )
      expect(failure).toBeInstanceOf(TransactionEndedError)
      expect(failure).toMatchObject({ reason: 'aborted', cause: { code: 'RSC_SHARED_CONNECTION' } })
      expect(await scope.db.execute(sql`select 1 as one`)).toMatchObject([{ one: 1 }])
    })
  })

  it('get along when the cursor is read to its end, or broken off, before', async () => {
    const app = appOn(database)
    await watch`insert into accounts (owner) select 'row ' || n from generate_series(1, 5) n`
    await app.run({ name: 'order' }, async (scope) => {
      await scope.transaction(async () => {
        await scope.db.transaction(async (tx) => {
          for await (const _rows of scope.db.$client`select owner from accounts`.cursor(2)) break
          await tx.insert(accounts).values({ owner: 'inside' })
        })
      })
    })
    expect(await ownersIn(database)).toHaveLength(6)
  })

  it('get along when the cursor fails inside a savepoint: only that one is undone', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      await scope.transaction(async () => {
        await scope.db.insert(accounts).values({ owner: 'before' })
        const failure = await failureOf(
          scope.db.transaction(async () => {
            for await (const _rows of scope.db.$client`select 1 / (3 - n) from generate_series(1, 5) n`.cursor(1)) {
              // the third one divides by zero
            }
          }),
        )
        expect(failure).toMatchObject({ code: '22012' })
        await scope.db.insert(accounts).values({ owner: 'after' })
      })
    })
    expect(await ownersIn(database)).toEqual(['before', 'after'])
  })
})

/** `fn`, called in no scope and in no transaction: as by a library that keeps a queue of its own. */
function lostContext<Result>(fn: () => Result): () => Promise<Result> {
  const asked = new Gate()
  const result = outside(() => asked.passed.then(fn))
  return () => {
    asked.open()
    return result
  }
}
