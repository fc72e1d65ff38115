import { eq, sql } from 'drizzle-orm'
import { beforeEach, describe, expect, it, vi } from 'vitest'
import { DeadlineExceededError, InvalidOptionError, TransactionEndedError } from '../../src/index.ts'
import { accounts, accountsDatabase, appOn, backendOf, backendsOf, failureOf, Gate, ownersIn } from './fixture.ts'
import { wireTo } from './wire.ts'

const database = await accountsDatabase()
const { watch } = database
await watch`create table seats (id integer primary key, taken_by integer unique deferrable initially deferred)`

beforeEach(async () => {
  await watch`truncate accounts, seats restart identity`
})

const idleBackends = async () => (await backendsOf(database)).every(({ state }) => state === 'idle')

describe('a transaction', () => {
  it('commits what its function did, and resolves to what the function returned', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      const result = await scope.transaction(async () => {
        await scope.db.insert(accounts).values({ owner: 'ann' })
        expect(await ownersIn(database)).toEqual([])
        return 'done'
      })
      expect(result).toBe('done')
      expect(await ownersIn(database)).toEqual(['ann'])
    })
  })

  it('rolls back everything when its function throws, and rejects with that very error', async () => {
    const app = appOn(database)
    const mistake = new Error('out of stock')
    await app.run({ name: 'order' }, async (scope) => {
      const failure = await failureOf(
        scope.transaction(async () => {
          await scope.db.insert(accounts).values({ owner: 'ann' })
          await scope.db.insert(accounts).values({ owner: 'bob' })
          throw mistake
        }),
      )
      expect(failure).toBe(mistake)
      expect(await ownersIn(database)).toEqual([])
      expect(await scope.db.select().from(accounts)).toEqual([])
    })
    expect(await idleBackends()).toBe(true)
  })

  it('rolls back when its function throws before it returns a promise', async () => {
    const app = appOn(database)
    const mistake = new Error('synchronous')
    await app.run({ name: 'order' }, async (scope) => {
      const work = scope.transaction(() => {
        scope.db.insert(accounts).values({ owner: 'ann' }).execute()
        throw mistake
      })
      expect(await failureOf(work)).toBe(mistake)
    })
    expect(await ownersIn(database)).toEqual([])
  })

  it('is around every function that is called inside, however deep, with nothing handed down', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      const transactionId = async () => {
        const [row] = await scope.db.$client<{ id: string }[]>`select pg_current_xact_id()::text as id`
        return row?.id
      }
      const deep = async (depth: number): Promise<string | undefined> =>
        depth === 0 ? transactionId() : Promise.resolve().then(() => deep(depth - 1))
      await scope.transaction(async () => {
        const own = await transactionId()
        expect(await deep(5)).toBe(own)
        expect(await new Promise((resolve) => setImmediate(() => resolve(deep(1))))).toBe(own)
      })
    })
  })

  it('is around db.transaction and $client.begin just the same', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      const mistake = new Error('changed my mind')
      const throughDrizzle = scope.db.transaction(async (tx) => {
        await tx.insert(accounts).values({ owner: 'by its handle' })
        await scope.db.insert(accounts).values({ owner: 'by ancestry' })
        throw mistake
      })
      expect(await failureOf(throughDrizzle)).toBe(mistake)
      const throughClient = scope.db.$client.begin(async (sql) => {
        await sql`insert into accounts (owner) values ('by its handle')`
        await scope.db.insert(accounts).values({ owner: 'by ancestry' })
        throw mistake
      })
      expect(await failureOf(throughClient)).toBe(mistake)
    })
    expect(await ownersIn(database)).toEqual([])
  })

  it('never takes in a parallel branch of the same scope', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      const inside = new Gate()
      const insertedOutside = new Gate()
      const mistake = new Error('rolled back')
      const transaction = scope.transaction(async () => {
        await scope.db.insert(accounts).values({ owner: 'inside' })
        inside.open()
        await insertedOutside.passed
        throw mistake
      })
      await inside.passed
      await scope.db.insert(accounts).values({ owner: 'outside' })
      expect(await ownersIn(database)).toEqual(['outside'])
      insertedOutside.open()
      expect(await failureOf(transaction)).toBe(mistake)
    })
    expect(await ownersIn(database)).toEqual(['outside'])
  })

  it('gets a connection of its own when another one of the same scope is open in a parallel branch', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      const inserted = [new Gate(), new Gate()]
      const seen = [new Gate(), new Gate()]
      const all = (gates: Gate[]) => Promise.all(gates.map(({ passed }) => passed))
      const branch = (index: number, owner: string) =>
        scope.transaction(async () => {
          await scope.db.insert(accounts).values({ owner })
          inserted[index]?.open()
          await all(inserted)
          expect(await scope.db.select({ owner: accounts.owner }).from(accounts)).toEqual([{ owner }])
          seen[index]?.open()
          await all(seen)
          return backendOf(scope)
        })
      const [first, second] = await Promise.all([branch(0, 'ann'), branch(1, 'bob')])
      expect(first).not.toBe(second)
    })
    expect((await ownersIn(database)).sort()).toEqual(['ann', 'bob'])
  })

  it('keeps its scope on one connection before, inside and after it', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      const before = await backendOf(scope)
      const inside = await scope.transaction(() => backendOf(scope))
      expect([inside, await backendOf(scope)]).toEqual([before, before])
    })
    expect(await idleBackends()).toBe(true)
  })

  it('takes no connection when its function runs no statement', async () => {
    const app = appOn(database, { max: 1 })
    const held = new Gate()
    const taken = new Gate()
    const holder = app.run({ name: 'holder' }, (scope) =>
      scope.transaction(async () => {
        await scope.db.insert(accounts).values({ owner: 'holder' })
        taken.open()
        await held.passed
      }),
    )
    await taken.passed
    await app.run({ name: 'empty' }, async (scope) => {
      expect(await scope.transaction(async () => 'nothing to do')).toBe('nothing to do')
    })
    expect(app.snapshot().leases).toMatchObject([{ scope: { name: 'holder' }, state: 'transaction' }])
    held.open()
    await holder
  })

  it('sends BEGIN together with the first statement instead of waiting for its answer', async () => {
    const sent: string[] = []
    const wire = await wireTo(database, (text, connection) => {
      const begins = text.includes('begin\0')
      const inserts = text.includes('insert into "accounts"')
      if (begins) sent.push('begin')
      if (inserts) sent.push('insert')
      // Were the answer to BEGIN waited for, the insert would never come.
      if (begins && !inserts) connection.holdAnswers()
      if (inserts) connection.letAnswersThrough()
    })
    const app = appOn(wire.url)
    await app.run({ name: 'order' }, (scope) =>
      scope.transaction(async () => {
        await scope.db.insert(accounts).values({ owner: 'ann' })
      }),
    )
    expect(sent).toEqual(['begin', 'insert'])
    expect(await ownersIn(database)).toEqual(['ann'])
  })

  it('runs statements that are sent at once inside of it in the order they were sent', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, (scope) =>
      scope.transaction(async () => {
        const owners = Array.from({ length: 20 }, (_, index) => `owner ${index}`)
        await Promise.all(owners.map((owner) => scope.db.insert(accounts).values({ owner })))
        expect((await scope.db.select().from(accounts).orderBy(accounts.id)).map(({ owner }) => owner)).toEqual(owners)
      }),
    )
  })
})

describe('a transaction in a clean-up of its scope', () => {
  it('commits, and its afterCommit runs', async () => {
    const app = appOn(database)
    const ran: string[] = []
    await app.run({ name: 'order' }, async (scope) => {
      await scope.db.insert(accounts).values({ owner: 'work' })
      scope.defer(() =>
        scope.transaction(async () => {
          await scope.db.insert(accounts).values({ owner: 'clean-up' })
          await scope.db.transaction((tx) => tx.insert(accounts).values({ owner: 'nested' }))
          scope.afterCommit(() => ran.push('committed'))
        }),
      )
    })
    expect(await ownersIn(database)).toEqual(['work', 'clean-up', 'nested'])
    expect(ran).toEqual(['committed'])
    expect(app.snapshot().leases).toEqual([])
  })
})

describe('a transaction that is opened by hand, as an adapter does', () => {
  it('is around what run calls, until it is committed, and can be ended only once', async () => {
    const app = appOn(database)
    await app.run({ name: 'POST /orders' }, async (scope) => {
      const transaction = scope.openTransaction({ isolationLevel: 'repeatable read' })
      expect(transaction.state).toBe('open')
      await transaction.run(() => scope.db.insert(accounts).values({ owner: 'ann' }).execute())
      await transaction.run(() => scope.transaction(() => scope.db.insert(accounts).values({ owner: 'bob' })))
      expect(await ownersIn(database)).toEqual([])
      await transaction.commit()
      expect(await ownersIn(database)).toEqual(['ann', 'bob'])
      expect(transaction.state).toBe('ended')
      expect(await failureOf(transaction.commit())).toMatchObject({ reason: 'used-after-end' })
      await transaction.rollback()
      const late = transaction.run(() => scope.db.insert(accounts).values({ owner: 'late' }).execute())
      expect(await failureOf(late)).toMatchObject({ reason: 'used-after-end' })
    })
    expect(await ownersIn(database)).toEqual(['ann', 'bob'])
  })

  it('that nobody ends is rolled back with its scope, and reported', async () => {
    const app = appOn(database)
    await app.run({ name: 'POST /orders' }, async (scope) => {
      const transaction = scope.openTransaction({})
      await transaction.run(() => scope.db.insert(accounts).values({ owner: 'ann' }).execute())
    })
    expect(await ownersIn(database)).toEqual([])
    expect(app.snapshot().leases).toEqual([])
    expect(app.logs).toMatchObject([{ level: 'warn', facts: { lease: { state: 'transaction' } } }])
  })
})

describe('how a transaction begins', () => {
  const settings = sql<{ isolation: string; readOnly: string; deferrable: string }>`
    select current_setting('transaction_isolation') as isolation, current_setting('transaction_read_only') as "readOnly",
      current_setting('transaction_deferrable') as deferrable`

  it.each([
    [{}, { isolation: 'read committed', readOnly: 'off', deferrable: 'off' }],
    [{ isolationLevel: 'repeatable read' }, { isolation: 'repeatable read', readOnly: 'off', deferrable: 'off' }],
    [{ isolationLevel: 'read uncommitted' }, { isolation: 'read uncommitted', readOnly: 'off', deferrable: 'off' }],
    [{ accessMode: 'read only' }, { isolation: 'read committed', readOnly: 'on', deferrable: 'off' }],
    [{ accessMode: 'read write' }, { isolation: 'read committed', readOnly: 'off', deferrable: 'off' }],
    [
      { isolationLevel: 'serializable', accessMode: 'read only', deferrable: true },
      { isolation: 'serializable', readOnly: 'on', deferrable: 'on' },
    ],
  ] as const)(
    'with %j is seen from inside, through scope.transaction and db.transaction',
    async (options, expected) => {
      const app = appOn(database)
      await app.run({ name: 'order' }, async (scope) => {
        expect([...(await scope.transaction(options, () => scope.db.execute(settings)))]).toEqual([expected])
        expect([...(await scope.db.transaction((tx) => tx.execute(settings), options))]).toEqual([expected])
        expect([...(await scope.db.execute(settings))]).toMatchObject([{ isolation: 'read committed' }])
      })
    },
  )

  it('in $client.begin is read from the text, as postgres.js has it', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      const [row] = await scope.db.$client.begin(
        'isolation level repeatable read read only',
        (sql) =>
          sql`select current_setting('transaction_isolation') as level, current_setting('transaction_read_only') as ro`,
      )
      expect(row).toEqual({ level: 'repeatable read', ro: 'on' })
    })
  })

  it('read only lets the server refuse a write', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      const work = scope.transaction({ accessMode: 'read only' }, () =>
        scope.db.insert(accounts).values({ owner: 'ann' }),
      )
      expect(await failureOf(work)).toMatchObject({ cause: { code: '25006' } })
    })
  })

  it.each([
    [{ isolationLevel: 'snapshot' }, 'transaction.isolationLevel'],
    [{ isolationLevel: 'serializable; drop table accounts' }, 'transaction.isolationLevel'],
    [{ accessMode: 'write only' }, 'transaction.accessMode'],
    [{ propagation: 'mandatory' }, 'transaction.propagation'],
    [{ retries: -1 }, 'transaction.retries'],
    [{ retries: 1.5 }, 'transaction.retries'],
    [{ deferrable: 'yes' }, 'transaction.deferrable'],
    [{ isolation: 'serializable' }, 'transaction.isolation'],
  ])('is refused with %j, by the name of the option, and the function is not called', async (options, option) => {
    const app = appOn(database)
    const fn = vi.fn(async () => {})
    await app.run({ name: 'order' }, async (scope) => {
      const failure = await failureOf(scope.transaction(options as never, fn))
      expect(failure).toBeInstanceOf(InvalidOptionError)
      expect(failure).toMatchObject({ option })
    })
    expect(fn).not.toHaveBeenCalled()
    expect(app.snapshot().leases).toEqual([])
  })
})

describe('a transaction that cannot commit', () => {
  it('because the error of a statement in it was swallowed is reported with that error, never lost in silence', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      await scope.db.insert(accounts).values({ id: 1, owner: 'before' })
      const failure = await failureOf(
        scope.transaction(async () => {
          await scope.db.insert(accounts).values({ id: 2, owner: 'ann' })
          await scope.db
            .insert(accounts)
            .values({ id: 1, owner: 'twice' })
            .catch(() => {})
        }),
      )
      expect(failure).toBeInstanceOf(TransactionEndedError)
      expect(failure).toMatchObject({ reason: 'aborted', scope: { name: 'order' }, cause: { code: '23505' } })
      expect(await scope.db.select().from(accounts).where(eq(accounts.id, 2))).toEqual([])
    })
    expect(await ownersIn(database)).toEqual(['before'])
    expect(await idleBackends()).toBe(true)
  })

  it('because a deferred constraint fails at COMMIT rejects with the error of the server, and its connection stays in use', async () => {
    const app = appOn(database, { max: 1 })
    const committed = vi.fn()
    await app.run({ name: 'seat' }, async (scope) => {
      const before = await backendOf(scope)
      const failure = await failureOf(
        scope.transaction(async () => {
          scope.afterCommit(committed)
          await scope.db.$client`insert into seats values (1, 7), (2, 7)`
        }),
      )
      expect(failure).toMatchObject({ code: '23505', constraint_name: 'seats_taken_by_key' })
      expect(await backendOf(scope)).toBe(before)
    })
    expect(committed).not.toHaveBeenCalled()
    expect(await watch`select * from seats`).toEqual([])
    expect(await idleBackends()).toBe(true)
  })

  it('because its deadline has passed is rolled back, and its connection serves the next scope', async () => {
    const app = appOn(database, { max: 1 })
    const before = await app.run({ name: 'before' }, backendOf)
    const failure = await failureOf(
      app.run({ name: 'slow', timeoutMs: 150 }, (scope) =>
        scope.transaction(async () => {
          await scope.db.insert(accounts).values({ owner: 'ann' })
          await scope.db.execute(sql`select pg_sleep(30)`)
        }),
      ),
    )
    expect(failure).toBeInstanceOf(DeadlineExceededError)
    expect(failure).toMatchObject({ timeoutMs: 150, scope: { name: 'slow' } })
    expect(await ownersIn(database)).toEqual([])
    expect(await app.run({ name: 'after' }, backendOf)).toBe(before)
  })

  it('because its deadline has passed is rolled back even when its function swallowed the error', async () => {
    const app = appOn(database)
    const committed = vi.fn()
    const failure = await failureOf(
      app.run({ name: 'slow', timeoutMs: 150 }, (scope) =>
        scope.transaction(async () => {
          scope.afterCommit(committed)
          await scope.db.insert(accounts).values({ owner: 'ann' })
          await scope.db.execute(sql`select pg_sleep(30)`).catch(() => {})
        }),
      ),
    )
    expect(failure).toBeInstanceOf(DeadlineExceededError)
    expect(committed).not.toHaveBeenCalled()
    expect(await ownersIn(database)).toEqual([])
  })

  it('because its deadline passed while it waited for something else does not commit either', async () => {
    const app = appOn(database)
    const failure = await failureOf(
      app.run({ name: 'slow', timeoutMs: 100 }, (scope) =>
        scope.transaction(async () => {
          await scope.db.insert(accounts).values({ owner: 'ann' })
          await new Promise((resolve) => scope.signal.addEventListener('abort', resolve))
        }),
      ),
    )
    expect(failure).toBeInstanceOf(DeadlineExceededError)
    expect(await ownersIn(database)).toEqual([])
  })

  it('because its scope ends before its function has finished is rolled back, its lease taken back, and that reported', async () => {
    const app = appOn(database, { max: 1 })
    await app.start()
    const scope = app.open({ id: 'r-1', kind: 'request', name: 'POST /orders' })
    const inserted = new Gate()
    const hangs = new Gate()
    const transaction = scope.bind(() =>
      scope.transaction(async () => {
        await scope.db.insert(accounts).values({ owner: 'ann' })
        inserted.open()
        await hangs.passed
      }),
    )()
    await inserted.passed
    await scope.end({ tag: 'aborted', error: new Error('settle timeout') })
    expect(app.snapshot().leases).toEqual([])
    expect(await idleBackends()).toBe(true)
    expect(app.logs).toMatchObject([
      {
        level: 'warn',
        message: expect.stringContaining('taken back'),
        facts: { lease: { state: 'transaction', scope: { name: 'POST /orders' } } },
      },
    ])
    hangs.open()
    const failure = await failureOf(transaction)
    expect(failure).toBeInstanceOf(TransactionEndedError)
    expect(failure).toMatchObject({ reason: 'scope-ended' })
    expect(await ownersIn(database)).toEqual([])
  })

  it('because its scope ends while a statement in it still runs is cancelled and rolled back', async () => {
    const app = appOn(database, { max: 1 })
    await app.start()
    const scope = app.open({ id: 'r-1', kind: 'request', name: 'POST /orders' })
    const transaction = scope.bind(() =>
      scope.transaction(async () => {
        await scope.db.insert(accounts).values({ owner: 'ann' })
        await scope.db.execute(sql`select pg_sleep(30)`)
      }),
    )()
    const failed = failureOf(transaction)
    await vi.waitFor(async () =>
      expect(await backendsOf(database)).toMatchObject([{ state: 'active', query: 'select pg_sleep(30)' }]),
    )
    await scope.end({ tag: 'aborted', error: new Error('settle timeout') })
    await failed
    expect(app.snapshot().leases).toEqual([])
    expect(await ownersIn(database)).toEqual([])
    expect(await app.run({ name: 'next' }, (next) => next.db.select().from(accounts))).toEqual([])
  })
})
