import { AsyncLocalStorage } from 'node:async_hooks'
import { sql } from 'drizzle-orm'
import { beforeEach, describe, expect, it, vi } from 'vitest'
import { DeadlineExceededError, InvalidOptionError, SharedConnectionError } from '../../src/index.ts'
import { pin } from '../../src/postgres/index.ts'
import { crashes } from '../crashes.ts'
import { accounts, accountsDatabase, appOn, backendOf, backendsOf, failureOf, Gate, ownersIn } from './fixture.ts'

const database = await accountsDatabase()
const { watch } = database
await watch.unsafe(
  "create function enter_tenant(tenant text) returns void language plpgsql as $$ begin perform set_config('my.tenant', tenant, false); end $$",
)

beforeEach(async () => {
  await watch`truncate accounts restart identity`
})

const tenantOf = async (scope: { db: { $client: import('postgres').Sql } }) => {
  const [row] = await scope.db.$client<
    { tenant: string }[]
  >`select coalesce(current_setting('my.tenant', true), '') as tenant`
  return row?.tenant
}

describe('pin', () => {
  it('keeps one connection for all statements inside, although others wait for one', async () => {
    const app = appOn(database, { max: 1 })
    const pinned = new Gate()
    const leave = new Gate()
    const order: string[] = []
    const first = app.run({ name: 'pinned' }, (scope) =>
      pin(scope.db, async () => {
        const backend = await backendOf(scope)
        pinned.open()
        await leave.passed
        expect(await backendOf(scope)).toBe(backend)
        order.push('pinned')
      }),
    )
    await pinned.passed
    const second = app.run({ name: 'waits' }, async (scope) => {
      await backendOf(scope)
      order.push('waits')
    })
    await watch`select 1`
    expect(app.snapshot().leases).toMatchObject([{ state: 'pinned', scope: { name: 'pinned' } }])
    leave.open()
    await Promise.all([first, second])
    expect(order).toEqual(['pinned', 'waits'])
  })

  it('resolves to what its function returns, and rejects with what it throws', async () => {
    const app = appOn(database)
    await app.run({ name: 'pinned' }, async (scope) => {
      expect(await pin(scope.db, async () => 'result')).toBe('result')
      const mistake = new Error('no')
      expect(
        await failureOf(
          pin(scope.db, () => {
            throw mistake
          }),
        ),
      ).toBe(mistake)
    })
    expect(app.snapshot().leases).toEqual([])
  })

  it('takes drizzle, $client, transactions, savepoints and cursors inside to that connection', async () => {
    const app = appOn(database)
    await app.run({ name: 'pinned' }, async (scope) => {
      await pin(scope.db, async () => {
        const own = await backendOf(scope)
        await scope.db.execute(sql`create temp table scratch (id integer)`)
        await scope.db.$client`insert into scratch values (1)`
        await scope.transaction(async () => {
          expect(await backendOf(scope)).toBe(own)
          await scope.db.execute(sql`insert into scratch values (2)`)
          await scope.db.transaction((tx) => tx.execute(sql`insert into scratch values (3)`))
        })
        await failureOf(
          scope.db.transaction(async (tx) => {
            await tx.execute(sql`insert into scratch values (4)`)
            tx.rollback()
          }),
        )
        const seen: number[] = []
        for await (const batch of scope.db.$client<{ id: number }[]>`select id from scratch order by id`.cursor(2)) {
          seen.push(...batch.map(({ id }) => id))
        }
        expect(seen).toEqual([1, 2, 3])
      })
    })
  })

  it('leaves other branches of the scope alone: they have connections of their own', async () => {
    const app = appOn(database)
    await app.run({ name: 'pinned' }, async (scope) => {
      const inside = new Gate<number>()
      const leave = new Gate()
      const pinned = pin(scope.db, async () => {
        inside.open(await backendOf(scope))
        await leave.passed
      })
      expect(await backendOf(scope)).not.toBe(await inside.passed)
      leave.open()
      await pinned
    })
  })

  it.each([
    ['when its function returns', async () => {}],
    [
      'when its function throws',
      async () => {
        throw new Error('no')
      },
    ],
  ])(
    'resets the connection afterwards, %s, also of what was set out of sight inside a function',
    async (_when, ending) => {
      const app = appOn(database, { max: 1 })
      await app.run({ name: 'pinned' }, async (scope) => {
        const backend = await pin(scope.db, async () => {
          await scope.db.execute(sql`select enter_tenant('7')`)
          expect(await tenantOf(scope)).toBe('7')
          await ending()
        }).catch(() => {})
        expect(backend).toBeUndefined()
        expect(app.snapshot().leases).toEqual([])
        expect(await tenantOf(scope)).toBe('')
      })
      await app.run({ name: 'next' }, async (scope) => expect(await tenantOf(scope)).toBe(''))
      expect(await backendsOf(database)).toHaveLength(1)
    },
  )

  it('inside of a pin stays on the same connection, with its state', async () => {
    const app = appOn(database)
    await app.run({ name: 'pinned' }, async (scope) => {
      await pin(scope.db, async () => {
        const backend = await backendOf(scope)
        await scope.db.execute(sql`select enter_tenant('7')`)
        expect(await pin(scope.db, () => backendOf(scope))).toBe(backend)
        expect(await tenantOf(scope)).toBe('7')
      })
    })
  })

  it('inside of a transaction is the connection of the transaction, which is reset in the end', async () => {
    const app = appOn(database, { max: 1 })
    const backend = await app.run({ name: 'pinned' }, (scope) =>
      scope.db.transaction(async (tx) => {
        const own = await backendOf(scope)
        await pin(tx, async () => {
          expect(await backendOf(scope)).toBe(own)
          await scope.db.execute(sql`select enter_tenant('7')`)
        })
        await pin(scope.db, async () => expect(await tenantOf(scope)).toBe('7'))
        return own
      }),
    )
    await app.run({ name: 'next' }, async (scope) => {
      expect(await backendOf(scope)).toBe(backend)
      expect(await tenantOf(scope)).toBe('')
    })
  })

  it('keeps what runs outside of any transaction on its connection too', async () => {
    const app = appOn(database)
    await app.run({ name: 'pinned' }, async (scope) => {
      await pin(scope.db, async () => {
        const own = await backendOf(scope)
        expect(await scope.transaction({ propagation: 'notSupported' }, () => backendOf(scope))).toBe(own)
      })
    })
  })

  it('takes the connection that has the session state of its scope, and leaves that state as it was', async () => {
    const app = appOn(database, { max: 1 })
    await app.run({ name: 'tenant' }, async (scope) => {
      await scope.db.execute(sql`set my.tenant = '7'`)
      await pin(scope.db, async () => expect(await tenantOf(scope)).toBe('7'))
      expect(await tenantOf(scope)).toBe('7')
    })
    await app.run({ name: 'next' }, async (scope) => expect(await tenantOf(scope)).toBe(''))
  })

  it('on the connection with session state makes others of its scope wait for their turn, and hangs nobody', async () => {
    const app = appOn(database)
    await app.run({ name: 'tenant' }, async (scope) => {
      await scope.db.execute(sql`set my.tenant = '7'`)
      const inside = new Gate()
      const leave = new Gate()
      const steps: string[] = []
      const pinned = pin(scope.db, async () => {
        await backendOf(scope)
        inside.open()
        await leave.passed
        steps.push('pinned')
      })
      await inside.passed
      const others = Promise.all([
        scope.transaction(() => tenantOf(scope)).then((tenant) => steps.push(`transaction ${tenant}`)),
        tenantOf(scope).then((tenant) => steps.push(`statement ${tenant}`)),
        pin(scope.db, () => tenantOf(scope)).then((tenant) => steps.push(`pin ${tenant}`)),
      ])
      await watch`select 1`
      expect(steps).toEqual([])
      const freedAt = performance.now()
      leave.open()
      await Promise.all([pinned, others])
      expect(steps[0]).toBe('pinned')
      expect(steps.slice(1).sort()).toEqual(['pin 7', 'statement 7', 'transaction 7'])
      // Woken up, not timed out.
      expect(performance.now() - freedAt).toBeLessThan(2_000)
    })
  })

  it('is cancelled at the deadline, and its connection serves the next scope', async () => {
    const app = appOn(database, { max: 1 })
    const failure = await failureOf(
      app.run({ name: 'slow', timeoutMs: 150 }, (scope) =>
        pin(scope.db, () => scope.db.execute(sql`select pg_sleep(30)`)),
      ),
    )
    expect(failure).toBeInstanceOf(DeadlineExceededError)
    await app.run({ name: 'next' }, async (scope) => expect(await tenantOf(scope)).toBe(''))
  })

  it.each([undefined, {}, 'db'])('refuses what is no handle of a scope: %j', async (db) => {
    const failure = (() => {
      try {
        return pin(db, async () => {})
      } catch (error) {
        return error
      }
    })()
    expect(failure).toBeInstanceOf(InvalidOptionError)
    expect(failure).toMatchObject({ option: 'pin.db' })
  })
})

describe('two transactions inside one pin', () => {
  it('run one after the other on its connection, never mixed', async () => {
    const app = appOn(database)
    await app.run({ name: 'pinned' }, async (scope) => {
      await pin(scope.db, async () => {
        let open = 0
        const seen: number[] = []
        const branch = (index: number) =>
          scope.transaction(async () => {
            await scope.db.insert(accounts).values({ owner: `owner ${index}` })
            seen.push(++open)
            await watch`select 1`
            open--
            if (index % 2 === 0) throw new Error('rolled back')
          })
        await Promise.allSettled(Array.from({ length: 4 }, (_, index) => branch(index)))
        expect(seen).toEqual([1, 1, 1, 1])
      })
    })
    expect((await ownersIn(database)).sort()).toEqual(['owner 1', 'owner 3'])
  })

  it('let a statement of another branch wait, so that it is not undone with them', async () => {
    const app = appOn(database)
    await app.run({ name: 'pinned' }, async (scope) => {
      await pin(scope.db, async () => {
        const inside = new Gate()
        const leave = new Gate()
        const work = scope.transaction(async () => {
          await scope.db.insert(accounts).values({ owner: 'inside' })
          inside.open()
          await leave.passed
          throw new Error('rolled back')
        })
        const next = scope.transaction(() => scope.db.insert(accounts).values({ owner: 'next' }))
        await inside.passed
        const statement = scope.db.insert(accounts).values({ owner: 'statement' }).execute()
        const batches: unknown[] = []
        const cursor = scope.db.$client`insert into accounts (owner) values ('cursor') returning owner`.cursor(
          (batch) => {
            batches.push(...batch)
          },
        )
        leave.open()
        await Promise.allSettled([work])
        await Promise.all([next, statement, cursor])
        expect(batches).toEqual([{ owner: 'cursor' }])
      })
    })
    expect((await ownersIn(database)).sort()).toEqual(['cursor', 'next', 'statement'])
  })
})

describe('what a pin began and did not wait for', () => {
  it('is rolled back with it, when it is a transaction, and nobody inherits it open', async () => {
    const app = appOn(database, { max: 1 })
    const found = crashes()
    await app.run({ name: 'pinned' }, async (scope) => {
      const inside = new Gate()
      const hangs = new Gate()
      let left: Promise<unknown> = Promise.resolve()
      await pin(scope.db, async () => {
        left = failureOf(
          scope.transaction(async () => {
            await scope.db.insert(accounts).values({ owner: 'left behind' })
            inside.open()
            await hangs.passed
            await scope.db.insert(accounts).values({ owner: 'late' })
          }),
        )
        await inside.passed
      })
      expect(await backendsOf(database)).toMatchObject([{ state: 'idle' }])
      await app.run({ name: 'next' }, (next) => next.db.insert(accounts).values({ owner: 'next' }))
      hangs.open()
      expect(await left).toMatchObject({ code: 'RSC_TRANSACTION_ENDED' })
    })
    expect(await ownersIn(database)).toEqual(['next'])
    expect(app.logs).toMatchObject([{ level: 'warn', facts: { lease: { scope: { name: 'pinned' } } } }])
    expect(found).toEqual([])
  })

  it('is refused afterwards, whatever it tries on the connection that is in other hands', async () => {
    const app = appOn(database, { max: 1 })
    await app.run({ name: 'pinned' }, async (scope) => {
      let later: <Result>(fn: () => Result) => Result = (fn) => fn()
      await pin(scope.db, async () => {
        await backendOf(scope)
        later = AsyncLocalStorage.snapshot()
      })
      const insert = () => scope.db.insert(accounts).values({ owner: 'late' }).execute()
      for (const attempt of [
        insert,
        () => scope.transaction(insert),
        () => scope.db.transaction(insert),
        () => scope.db.$client`select 1`.cursor(1, () => {}),
        () => pin(scope.db, insert),
      ]) {
        const failure = await failureOf(Promise.resolve().then(() => later(attempt)))
        expect(failure).toBeInstanceOf(SharedConnectionError)
        expect((failure as Error).message).toContain('Await all work before the function of pin returns')
      }
    })
    expect(await ownersIn(database)).toEqual([])
  })
})

it('never shares a connection that was asked for by somebody else in the very moment it was pinned', async () => {
  const app = appOn(database, { max: 1, acquireTimeoutMs: 100 })
  await app.start()
  const [a, b] = ['a', 'b'].map((id) => app.open({ id, kind: 'task', name: id })) as [
    ReturnType<typeof app.open>,
    ReturnType<typeof app.open>,
  ]
  await backendOf(a) // idle and ready to yield
  const leave = new Gate()
  const inPin = vi.fn()
  const pinned = pin(a.db, async () => {
    inPin(await backendOf(a))
    await leave.passed
  })
  const other = failureOf(b.db.execute(sql`select 1`))
  await vi.waitFor(() => expect(inPin).toHaveBeenCalled())
  expect(await other).toMatchObject({ code: 'RSC_POOL_EXHAUSTED' })
  leave.open()
  await pinned
  await Promise.all([a.end({ tag: 'completed' }), b.end({ tag: 'completed' })])
})
