import { sql } from 'drizzle-orm'
import { beforeEach, describe, expect, it } from 'vitest'
import { SharedConnectionError } from '../../src/index.ts'
import { accounts, accountsDatabase, appOn, backendsOf, failureOf, ownersIn } from './fixture.ts'

const database = await accountsDatabase()
const { watch } = database

beforeEach(async () => {
  await watch`truncate accounts restart identity`
})

const CONTROL = [
  'begin',
  'BEGIN ISOLATION LEVEL SERIALIZABLE',
  'start transaction',
  'commit',
  'Commit And Chain',
  'end',
  'rollback',
  'rollback to savepoint a',
  'abort',
  'savepoint a',
  'release savepoint a',
  "prepare transaction 'x'",
  '  -- a comment\n /* and another */ commit',
  ';; commit',
]

describe('transaction control as a statement of the user', () => {
  it.each(CONTROL)('is refused: %j', async (text) => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      await scope.transaction(async () => {
        await scope.db.insert(accounts).values({ owner: 'ann' })
        for (const attempt of [
          () => scope.db.execute(sql.raw(text)),
          () => scope.db.$client.unsafe(text),
          () => scope.db.$client.unsafe(text).simple(),
          () => scope.db.$client(Object.assign([text], { raw: [text] })),
          () => scope.db.$client.unsafe(text).cursor(1, () => {}),
        ]) {
          const failure = await failureOf(Promise.resolve().then(attempt))
          expect(failure).toBeInstanceOf(SharedConnectionError)
          expect((failure as Error).message).toContain('scope.transaction')
        }
        expect(await ownersIn(database)).toEqual([])
      })
    })
    // It was refused before it was sent: the transaction is none the worse for it.
    expect(await ownersIn(database)).toEqual(['ann'])
  })

  it.each([
    "insert into accounts (owner) values ('a'); commit; insert into accounts (owner) values ('b')",
    "insert into accounts (owner) values ('a'); end",
    "select 1; rollback; insert into accounts (owner) values ('b')",
    'select 1; /* ; */ -- ;\n commit; select 2',
  ])('is refused among several in one text, inside a transaction: %j', async (text) => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      const failure = await failureOf(
        scope.transaction(async () => {
          await scope.db.insert(accounts).values({ owner: 'before' })
          await scope.db.execute(sql.raw(text)).catch(() => {})
          await scope.db.insert(accounts).values({ owner: 'after' })
        }),
      )
      expect(failure).toBeInstanceOf(Error)
    })
    // Nothing was committed behind the back of the transaction, and nothing after it ran on its own.
    expect(await ownersIn(database)).toEqual([])
  })

  it.each([
    'select 1; begin',
    "select 1; begin; insert into accounts (owner) values ('a')",
    'select 1; start transaction; select 2',
  ])('is refused among several in one text, outside of a transaction, and leaves none open: %j', async (text) => {
    const app = appOn(database, { max: 1 })
    await app.run({ name: 'first' }, async (scope) => {
      expect(await failureOf(scope.db.execute(sql.raw(text)))).toBeInstanceOf(Error)
    })
    await app.run({ name: 'second' }, (scope) => scope.db.insert(accounts).values({ owner: 'second' }))
    expect(await ownersIn(database)).toEqual(['second'])
    expect(await backendsOf(database)).toMatchObject([{ state: 'idle' }])
  })

  it.each([
    ["select '; commit' as text", [{ text: '; commit' }]],
    ['select 1 as one; select 2 as two', [[{ one: 1 }], [{ two: 2 }]]],
    ['do $$ begin perform 1; end $$', []],
    ['select 1 as "rollback"; ', [{ rollback: 1 }]],
  ])('is not seen where there is none: %j', async (text, rows) => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      const result = await scope.transaction(() => scope.db.execute(sql.raw(text)))
      expect(JSON.parse(JSON.stringify(result))).toEqual(rows)
    })
  })

  it('that slips in as a fragment is refused as well', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      const { $client } = scope.db
      await scope.transaction(async () => {
        await $client`insert into accounts (owner) values ('before')`
        for (const attempt of [
          () => $client`${$client`commit`}`,
          () => $client`${$client.unsafe('commit')}`,
          () => $client`${[$client`commit`, $client`and no chain`]}`,
          () => $client`${$client`${$client`rollback`}`}`,
        ]) {
          expect(await failureOf(Promise.resolve().then(attempt))).toBeInstanceOf(SharedConnectionError)
        }
        expect(await ownersIn(database)).toEqual([])
      })
    })
    expect(await ownersIn(database)).toEqual(['before'])
  })

  it('among several says what to do instead, and keeps the words of the server as its cause', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      const failure = await failureOf(scope.db.execute(sql.raw('select 1; commit')))
      expect(failure).toBeInstanceOf(SharedConnectionError)
      expect(failure).toMatchObject({ message: expect.stringContaining('scope.transaction'), cause: { code: '42601' } })
    })
  })

  it('that is the end of a function body is none: such a text is taken', async () => {
    const app = appOn(database)
    await app.run({ name: 'migration' }, async (scope) => {
      await scope.db.execute(sql.raw('create or replace function one() returns integer begin atomic select 1; end'))
      await scope.db.execute(
        sql.raw(
          'create or replace function two() returns integer language plpgsql as $body$ begin return 2; end $body$; select 1',
        ),
      )
      expect(await scope.db.execute(sql`select one(), two()`)).toMatchObject([{ one: 1, two: 2 }])
    })
  })

  it('in a procedure is refused by the server, and nothing is half done', async () => {
    const app = appOn(database)
    await watch.unsafe(
      "create or replace procedure commit_inside() language plpgsql as $$ begin insert into accounts (owner) values ('p'); commit; end $$",
    )
    await app.run({ name: 'order' }, async (scope) => {
      const work = scope.transaction(() => scope.db.execute(sql`call commit_inside()`))
      expect(await failureOf(work)).toMatchObject({ cause: { code: '2D000' } })
    })
    expect(await ownersIn(database)).toEqual([])
  })
})
