import { eq } from 'drizzle-orm'
import { beforeEach, describe, expect, it } from 'vitest'
import { ScopeEndedError, ScopeLeakError, TransactionEndedError } from '../../src/index.ts'
import { accounts, accountsDatabase, appOn, type Database, failureOf, Gate, ownersIn } from './fixture.ts'

const database = await accountsDatabase()
const { watch } = database
type Transaction = Parameters<Parameters<Database['transaction']>[0]>[0]

beforeEach(async () => {
  await watch`truncate accounts restart identity`
})

describe('a transaction handle used after its end', () => {
  it.each([
    ['committed', async () => {}],
    [
      'rolled back',
      async () => {
        throw new Error('roll back')
      },
    ],
  ])('throws, and says that it had been %s and where it was started', async (how, ending) => {
    const app = appOn(database)
    await app.run({ name: 'order', id: 'r-1' }, async (scope) => {
      let leaked: Transaction | undefined
      await scope.db
        .transaction(async (tx) => {
          leaked = tx
          await tx.select().from(accounts)
          await ending()
        })
        .catch(() => {})
      const failure = (await failureOf(
        leaked?.insert(accounts).values({ owner: 'late' }).execute() ?? Promise.resolve(),
      )) as Error
      expect(failure).toBeInstanceOf(TransactionEndedError)
      expect(failure).toMatchObject({ reason: 'used-after-end', scope: { id: 'r-1', kind: 'task', name: 'order' } })
      expect(failure.message).toContain(`after it had been ${how}`)
      expect(failure.message).toContain('transaction-handle-used-after-its-end.test.ts')
    })
    expect(await ownersIn(database)).toEqual([])
  })

  it('throws for every kind of use', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      let leaked: Transaction | undefined
      await scope.db.transaction(async (tx) => {
        leaked = tx
      })
      const tx = leaked as Transaction
      const uses: (() => PromiseLike<unknown>)[] = [
        () => tx.select().from(accounts),
        () => tx.insert(accounts).values({ owner: 'late' }),
        () => tx.update(accounts).set({ balance: 1 }),
        () => tx.delete(accounts).where(eq(accounts.id, 1)),
        () => tx.query.accounts.findMany(),
        () => tx.execute('select 1'),
        () => tx.$count(accounts),
        () => tx.transaction(async () => {}),
      ]
      for (const use of uses) {
        expect(await failureOf(Promise.resolve().then(use))).toBeInstanceOf(TransactionEndedError)
      }
    })
  })

  it('never runs in a later transaction of the same scope', async () => {
    const app = appOn(database, { max: 1 })
    await app.run({ name: 'order' }, async (scope) => {
      let leaked: Transaction | undefined
      await scope.db.transaction(async (tx) => {
        leaked = tx
        await tx.insert(accounts).values({ owner: 'first' })
      })
      await scope.db.transaction(async (tx) => {
        await tx.insert(accounts).values({ owner: 'second' })
        const late = leaked?.insert(accounts).values({ owner: 'late' }).execute() ?? Promise.resolve()
        expect(await failureOf(late)).toBeInstanceOf(TransactionEndedError)
      })
    })
    expect(await ownersIn(database)).toEqual(['first', 'second'])
  })

  it("never runs in another request's transaction, although that has the same connection", async () => {
    const app = appOn(database, { max: 1 })
    let leaked: Transaction | undefined
    await app.run({ name: 'POST /first' }, (scope) =>
      scope.db.transaction(async (tx) => {
        leaked = tx
        await tx.insert(accounts).values({ owner: 'first' })
      }),
    )
    const opened = new Gate()
    const tried = new Gate()
    const second = app.run({ name: 'POST /second' }, (scope) =>
      scope.transaction(async () => {
        await scope.db.insert(accounts).values({ owner: 'second' })
        const failure = await failureOf(
          leaked?.insert(accounts).values({ owner: 'late' }).execute() ?? Promise.resolve(),
        )
        expect(failure).toBeInstanceOf(ScopeLeakError)
        expect(failure).toMatchObject({ scope: { name: 'POST /first' }, usedFrom: { name: 'POST /second' } })
        opened.open()
        await tried.passed
      }),
    )
    await opened.passed
    const outside = await failureOf(leaked?.insert(accounts).values({ owner: 'late' }).execute() ?? Promise.resolve())
    expect(outside).toBeInstanceOf(ScopeEndedError)
    tried.open()
    await second
    expect(await ownersIn(database)).toEqual(['first', 'second'])
  })

  it('throws through the tagged client of $client.begin as well', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      let late: () => PromiseLike<unknown> = async () => {}
      await scope.db.$client.begin(async (sql) => {
        await sql`select 1`
        late = () => sql`insert into accounts (owner) values ('late')`
      })
      expect(await failureOf(Promise.resolve().then(late))).toBeInstanceOf(TransactionEndedError)
    })
    expect(await ownersIn(database)).toEqual([])
  })

  it('throws when a stream still reads the transaction after it', async () => {
    const app = appOn(database)
    await watch`insert into accounts (owner) select 'row ' || n from generate_series(1, 5) n`
    await app.run({ name: 'report' }, async (scope) => {
      async function* lines(tx: Transaction) {
        for (let id = 1; id <= 5; id++) yield (await tx.select().from(accounts).where(eq(accounts.id, id)))[0]?.owner
      }
      const report = await scope.db.transaction(async (tx) => ({ lines: lines(tx) }))
      const failure = await failureOf(report.lines.next())
      expect(failure).toBeInstanceOf(TransactionEndedError)
      expect((failure as Error).message).toContain('read what a stream needs before')
    })
  })
})
