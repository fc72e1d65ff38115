import { AsyncLocalStorage } from 'node:async_hooks'
import { beforeEach, describe, expect, it, vi } from 'vitest'
import {
  DeadlineExceededError,
  PoolExhaustedError,
  ScopeEndedError,
  SharedConnectionError,
  tryCurrentScope,
} from '../../src/index.ts'
import { heard } from '../heard.ts'
import { accounts, accountsDatabase, appOn, backendOf, failureOf, Gate, ownersIn } from './fixture.ts'

const database = await accountsDatabase()
const { watch } = database

beforeEach(async () => {
  await watch`truncate accounts restart identity`
})

const FIVE = 'select n from generate_series(1, 5) n'

describe('a cursor', () => {
  it.each([
    [2, [[1, 2], [3, 4], [5]]],
    [5, [[1, 2, 3, 4, 5]]],
    [100, [[1, 2, 3, 4, 5]]],
    [undefined, [[1], [2], [3], [4], [5]]],
  ])('reads %j rows at a time, to a loop and to a function', async (rows, expected) => {
    await appOn(database).run({ name: 'report' }, async (scope) => {
      const sql = scope.db.$client
      const looped: unknown[] = []
      for await (const batch of sql<{ n: number }[]>`${sql.unsafe(FIVE)}`.cursor(rows))
        looped.push(batch.map(({ n }) => n))
      expect(looped).toEqual(expected)
      const called: unknown[] = []
      const note = (batch: readonly { n: number }[]) => void called.push(batch.map(({ n }) => n))
      if (rows === undefined) await sql.unsafe<{ n: number }[]>(FIVE).cursor(note)
      else await sql.unsafe<{ n: number }[]>(FIVE).cursor(rows, note)
      expect(called).toEqual(expected)
    })
  })

  it('has parameters, and its rows as values', async () => {
    await appOn(database).run({ name: 'report' }, async (scope) => {
      const seen: unknown[] = []
      for await (const batch of scope.db.$client`select n, n * 2 from generate_series(1, ${3}::int) n`
        .values()
        .cursor(2)) {
        seen.push(...batch)
      }
      expect(seen).toEqual([
        [1, 2],
        [2, 4],
        [3, 6],
      ])
    })
  })

  it('of no rows has no batch', async () => {
    await appOn(database).run({ name: 'report' }, async (scope) => {
      const batch = vi.fn()
      for await (const rows of scope.db.$client`select 1 where false`.cursor(10)) batch(rows)
      await scope.db.$client`select 1 where false`.cursor(10, batch)
      expect(batch).not.toHaveBeenCalled()
    })
    // It was given back in good order.
  })

  it('waits for what its function returns before it reads on, and stops at CLOSE', async () => {
    await appOn(database).run({ name: 'report' }, async (scope) => {
      const steps: string[] = []
      const { $client } = scope.db
      await $client`select n from generate_series(1, 100) n`.cursor(1, async ([row]) => {
        steps.push(`${row?.n} begins`)
        await watch`select 1`
        steps.push(`${row?.n} ends`)
        return row?.n === 2 ? $client.CLOSE : undefined
      })
      expect(steps).toEqual(['1 begins', '1 ends', '2 begins', '2 ends'])
    })
  })

  it('calls its function in the context of whoever called it', async () => {
    const app = appOn(database)
    const request = new AsyncLocalStorage<string>()
    await app.run({ name: 'first' }, backendOf) // opens the connection in another context
    await app.run({ name: 'report' }, (scope) =>
      request.run('mine', async () => {
        const seen: unknown[] = []
        await scope.db.$client`select n from generate_series(1, 3) n`.cursor(1, () => {
          seen.push([request.getStore(), tryCurrentScope() === scope])
        })
        expect(seen).toEqual([
          ['mine', true],
          ['mine', true],
          ['mine', true],
        ])
      }),
    )
  })

  it('keeps its connection while it is read, and shows in the ledger as what it is', async () => {
    const app = appOn(database, { max: 1, acquireTimeoutMs: 50 })
    await app.run({ name: 'report' }, async (scope) => {
      for await (const _batch of scope.db.$client.unsafe(FIVE).cursor(5)) {
        expect(app.snapshot().leases).toMatchObject([{ state: 'cursor', statement: FIVE, scope: { name: 'report' } }])
        const other = app.run({ name: 'other' }, backendOf)
        expect(await failureOf(other)).toBeInstanceOf(PoolExhaustedError)
      }
      expect(app.snapshot().leases).toEqual([])
    })
  })

  it.each<[string, (end: () => never) => 'break' | undefined]>([
    ['is broken off', () => 'break'],
    ['throws', (end) => end()],
  ])('gives its connection back when its loop %s', async (_how, step) => {
    const app = appOn(database, { max: 1 })
    await app.run({ name: 'report' }, async (scope) => {
      const backend = await backendOf(scope)
      const loop = async () => {
        for await (const _batch of scope.db.$client`select n from generate_series(1, 100000) n`.cursor(10)) {
          const end = (): never => {
            throw new Error('enough')
          }
          if (step(end) === 'break') break
        }
      }
      await loop().catch((error: unknown) => expect(error).toMatchObject({ message: 'enough' }))
      expect(app.snapshot().leases).toEqual([])
      expect(await backendOf(scope)).toBe(backend)
    })
  })

  it('gives its connection back when its function throws, and rejects with that', async () => {
    const app = appOn(database, { max: 1 })
    const mistake = new Error('enough')
    await app.run({ name: 'report' }, async (scope) => {
      const work = scope.db.$client`select n from generate_series(1, 100000) n`.cursor(10, () => {
        throw mistake
      })
      expect(await failureOf(work)).toBe(mistake)
      expect(app.snapshot().leases).toEqual([])
      expect([...(await scope.db.$client`select 42 as answer`)]).toEqual([{ answer: 42 }])
    })
  })

  it('rejects with the error of its statement, at once or half-way, and leaves the connection in order', async () => {
    const app = appOn(database, { max: 1 })
    await app.run({ name: 'report' }, async (scope) => {
      const sql = scope.db.$client
      const read = async (query: { cursor(rows: number): AsyncIterable<unknown[]> }, seen: unknown[]) => {
        for await (const batch of query.cursor(1)) seen.push(...batch)
      }
      expect(await failureOf(read(sql`select * from nowhere`, []))).toMatchObject({ code: '42P01' })
      const seen: unknown[] = []
      expect(await failureOf(read(sql`select 6 / (3 - n) as q from generate_series(1, 5) n`, seen))).toMatchObject({
        code: '22012',
      })
      expect(seen).toEqual([{ q: 3 }, { q: 6 }])
      expect([...(await sql`select 42 as answer`)]).toEqual([{ answer: 42 }])
    })
  })

  it('lets statements and other cursors of the scope run inside its loop, on connections of their own', async () => {
    await appOn(database).run({ name: 'report' }, async (scope) => {
      const sql = scope.db.$client
      const pairs: string[] = []
      for await (const [outer] of sql<{ n: number }[]>`select n from generate_series(1, 3) n`.cursor(1)) {
        await scope.db.insert(accounts).values({ owner: `owner ${outer?.n}` })
        await scope.transaction(() => scope.db.insert(accounts).values({ owner: `in a transaction ${outer?.n}` }))
        for await (const [inner] of sql<{ n: number }[]>`select n from generate_series(1, 2) n`.cursor(1)) {
          pairs.push(`${outer?.n}${inner?.n}`)
        }
      }
      expect(pairs).toEqual(['11', '12', '21', '22', '31', '32'])
    })
    expect(await ownersIn(database)).toHaveLength(6)
  })

  it('that was never read to its end is taken back when its scope ends, and reported', async () => {
    const app = appOn(database, { max: 1 })
    const reclaimed = heard('reqscope:lease:reclaimed')
    let late: Promise<unknown> = Promise.resolve()
    await app.run({ name: 'report' }, async (scope) => {
      const rows = scope.db.$client.unsafe(FIVE).cursor(1)[Symbol.asyncIterator]()
      await rows.next()
      const ended = new Gate()
      late = failureOf(ended.passed.then(() => rows.next()))
      setImmediate(() => setImmediate(() => ended.open()))
    })
    expect(app.snapshot().leases).toEqual([])
    expect(reclaimed).toMatchObject([{ lease: { state: 'cursor', scope: { name: 'report' } } }])
    expect(await late).toBeInstanceOf(ScopeEndedError)
    expect(
      await app.run({ name: 'next' }, (scope) => scope.db.$client`select 42 as answer`.then(([row]) => row)),
    ).toEqual({ answer: 42 })
  })

  it('rejects with the deadline of its scope, between two batches and inside of one', async () => {
    const app = appOn(database, { max: 1 })
    for (const slow of ['false', 'true']) {
      const failure = await failureOf(
        app.run({ name: 'report', timeoutMs: 120 }, async (scope) => {
          const query = scope.db.$client.unsafe(
            `select n, case when ${slow} and n > 1 then pg_sleep(30) end from generate_series(1, 5) n`,
          )
          for await (const _batch of query.cursor(1)) {
            if (slow === 'false') await new Promise((resolve) => scope.signal.addEventListener('abort', resolve))
          }
        }),
      )
      expect(failure).toBeInstanceOf(DeadlineExceededError)
      expect(app.snapshot().leases).toEqual([])
    }
    await app.run({ name: 'next' }, async (scope) =>
      expect([...(await scope.db.$client`select 42 as answer`)]).toEqual([{ answer: 42 }]),
    )
  })
})

describe('a cursor inside a transaction', () => {
  it('reads what the transaction sees, and leaves it usable', async () => {
    await appOn(database).run({ name: 'report' }, async (scope) => {
      await scope.transaction(async () => {
        await scope.db.insert(accounts).values([{ owner: 'ann' }, { owner: 'bob' }])
        const seen: unknown[] = []
        for await (const batch of scope.db.$client<{ owner: string }[]>`select owner from accounts order by id`.cursor(
          1,
        )) {
          seen.push(...batch.map(({ owner }) => owner))
        }
        expect(seen).toEqual(['ann', 'bob'])
        await scope.db.insert(accounts).values({ owner: 'eve' })
      })
    })
    expect(await ownersIn(database)).toEqual(['ann', 'bob', 'eve'])
  })

  it('refuses a statement inside its loop, clearly, and a transaction whose function swallows that still commits', async () => {
    await appOn(database).run({ name: 'report' }, async (scope) => {
      await scope.transaction(async () => {
        await scope.db.insert(accounts).values([{ owner: 'ann' }, { owner: 'bob' }])
        const refused: unknown[] = []
        for await (const _batch of scope.db.$client`select * from accounts`.cursor(1)) {
          refused.push(await failureOf(scope.db.select().from(accounts)))
          refused.push(await failureOf(scope.db.$client`select 1`.cursor(1, () => {})))
        }
        expect(refused).toHaveLength(4)
        for (const failure of refused) {
          expect(failure).toBeInstanceOf(SharedConnectionError)
          expect((failure as Error).message).toContain('read it to its end first')
        }
      })
    })
    expect(await ownersIn(database)).toEqual(['ann', 'bob'])
  })

  it('lets what is outside of the transaction run inside its loop', async () => {
    await appOn(database).run({ name: 'report' }, async (scope) => {
      await scope.transaction(async () => {
        for await (const [row] of scope.db.$client<{ n: number }[]>`select n from generate_series(1, 2) n`.cursor(1)) {
          await scope.transaction({ propagation: 'requiresNew' }, () =>
            scope.db.insert(accounts).values({ owner: `owner ${row?.n}` }),
          )
        }
      })
    })
    expect(await ownersIn(database)).toEqual(['owner 1', 'owner 2'])
  })

  it('broken off leaves the transaction usable', async () => {
    await appOn(database).run({ name: 'report' }, async (scope) => {
      await scope.transaction(async () => {
        for await (const _batch of scope.db.$client`select n from generate_series(1, 100000) n`.cursor(10)) break
        await scope.db.insert(accounts).values({ owner: 'after' })
      })
    })
    expect(await ownersIn(database)).toEqual(['after'])
  })

  it('that failed and was swallowed makes the commit fail, with its error as the cause', async () => {
    await appOn(database).run({ name: 'report' }, async (scope) => {
      const failure = await failureOf(
        scope.transaction(async () => {
          await scope.db.insert(accounts).values({ owner: 'ann' })
          await scope.db.$client`select 1 / (2 - n) from generate_series(1, 5) n`.cursor(1, () => {}).catch(() => {})
        }),
      )
      expect(failure).toMatchObject({ code: 'RSC_TRANSACTION_ENDED', reason: 'aborted', cause: { code: '22012' } })
    })
    expect(await ownersIn(database)).toEqual([])
  })

  it('left open when the function returns makes the commit fail instead of hanging', async () => {
    const app = appOn(database)
    await app.run({ name: 'report' }, async (scope) => {
      const failure = await failureOf(
        scope.transaction(async () => {
          await scope.db.insert(accounts).values({ owner: 'ann' })
          await scope.db.$client.unsafe(FIVE).cursor(1)[Symbol.asyncIterator]().next()
        }),
      )
      expect(failure).toMatchObject({
        code: 'RSC_TRANSACTION_ENDED',
        reason: 'aborted',
        cause: { code: 'RSC_SHARED_CONNECTION' },
      })
      await scope.db.insert(accounts).values({ owner: 'after' })
    })
    expect(await ownersIn(database)).toEqual(['after'])
    expect(app.snapshot().leases).toEqual([])
  })
})
