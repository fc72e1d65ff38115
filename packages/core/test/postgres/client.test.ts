import { AsyncLocalStorage } from 'node:async_hooks'
import { drizzle } from 'drizzle-orm/postgres-js'
import postgresJs, { type Sql } from 'postgres'
import { afterAll, beforeEach, describe, expect, expectTypeOf, it, vi } from 'vitest'
import { createScopes, SharedConnectionError, tryCurrentScope } from '../../src/index.ts'
import { postgres } from '../../src/postgres/index.ts'
import { accounts, accountsDatabase, appOn, backendOf, type Database, failureOf, Gate, ownersIn } from './fixture.ts'

const database = await accountsDatabase()
const { watch } = database
await watch.unsafe(`create table things (
  id serial primary key, name text, facts jsonb, seen timestamptz, tags text[], numbers integer[], bytes bytea)`)

/** Plain drizzle's client, which is postgres.js as drizzle leaves it. */
const plain = drizzle(postgresJs(database.url, { max: 1 })).$client
afterAll(() => plain.end())

beforeEach(async () => {
  await watch`truncate accounts, things restart identity`
})

type Values = unknown[]
const shapes: [string, (sql: Sql) => PromiseLike<unknown>][] = [
  [
    'values of every plain kind',
    (sql) => sql`select ${1}::int as i, ${'x'} as t, ${true} as b, ${null} as n, ${'10'}::bigint as big`,
  ],
  ['a buffer', (sql) => sql`select ${Buffer.from('hi')}::bytea as bytes`],
  ['no parameters at all', (sql) => sql`select 1 as one, now() is not null as known`],
  ['a fragment', (sql) => sql`select * from things where ${sql`name = ${'ann'}`}`],
  ['nested fragments', (sql) => sql`select ${sql`${sql`${1}::int + ${2}::int`} + ${3}::int`} as n`],
  ['a list of fragments', (sql) => sql`select 1 as one ${[sql`where true`, sql`and ${2} = 2`]}`],
  ['a fragment of unsafe text', (sql) => sql`select ${sql.unsafe('1 + 1')} as n`],
  ['a conditional fragment that is empty', (sql) => sql`select 1 as one ${sql``}`],
  ['an identifier', (sql) => sql`select ${sql('name')} from ${sql('things')}`],
  ['several identifiers', (sql) => sql`select ${sql(['name', 'id'])} from things`],
  ['a row to insert', (sql) => sql`insert into things ${sql({ name: 'bob', numbers: [1, 2] })} returning *`],
  ['some columns of a row', (sql) => sql`insert into things ${sql({ name: 'bob', ignored: 1 }, 'name')} returning *`],
  [
    'rows to insert',
    (sql) => sql`insert into things ${sql([{ name: 'bob' }, { name: 'eve' }], 'name')} returning name`,
  ],
  [
    'a fragment in a row',
    (sql) => sql`insert into things ${sql({ name: sql`upper(${'bob'})` } as never)} returning name`,
  ],
  [
    'a fragment in one of several rows',
    (sql) =>
      sql`insert into things ${sql([{ name: 'x' }, { name: sql`upper(${'bob'})` }] as never, 'name')} returning name`,
  ],
  [
    'columns to set',
    (sql) => sql`update things set ${sql({ name: 'zoe' }, 'name')} where name = ${'ann'} returning name`,
  ],
  ['a list of values', (sql) => sql`select name from things where id in ${sql([1, 2, 3])}`],
  ['an empty list of values', (sql) => sql`select name from things where id in ${sql([])}`],
  ['an array', (sql) => sql`select name from things where name = any(${sql.array(['ann', 'bob'])})`],
  ['an array of a type', (sql) => sql`select 2 = any(${sql.array([1, 2], 1007)}) as found`],
  ['a typed value', (sql) => sql`select ${sql.typed('7', 23)} as n`],
  ['unsafe', (sql) => sql.unsafe('select name from things')],
  ['unsafe with parameters', (sql) => sql.unsafe('select $1::int + $2::int as n', [1, 2])],
  ['unsafe with options', (sql) => sql.unsafe('select $1::int as n', [1], { prepare: true })],
  ['several statements', (sql) => sql.unsafe('select 1 as one; select 2 as two')],
  ['several statements, simple', (sql) => sql`select 1 as one; select 2 as two`.simple()],
  ['values()', (sql) => sql`select id, name, seen from things`.values()],
  ['raw()', (sql) => sql`select id, name, seen from things`.raw()],
  ['a date, read', (sql) => sql`select seen, tags, numbers, facts from things`],
  ['notify', (sql) => sql.notify('channel', 'payload')],
  ['an undefined value', (sql) => sql`select ${undefined as never}`],
  ['an error of the server', (sql) => sql`select * from nowhere where id = ${1}`],
  ['a division by zero', (sql) => sql`select 1 / ${0}::int`],
  ['a helper that was not put into a statement', (sql) => Promise.resolve(sql({ a: 1 }) as never)],
]

async function outcomeOf(run: (sql: Sql) => PromiseLike<unknown>, sql: Sql): Promise<unknown> {
  await watch`truncate things restart identity`
  await watch`insert into things (name, facts, seen, tags, numbers) values
    ('ann', '{"a": [1, {"b": null}]}', '2026-01-02 03:04:05.678+00', array['x', 'y,z'], array[1, 2, 3])`
  try {
    const result = (await run(sql)) as Values & { count?: number; command?: string; columns?: { name: string }[] }
    return {
      rows: [...result],
      count: result.count,
      command: result.command,
      columns: result.columns?.map(({ name }) => name),
    }
  } catch (error) {
    const { name, code, message } = error as Error & { code?: string }
    return { name, code, message }
  }
}

describe("$client takes and gives what plain drizzle's client does", () => {
  it.each(shapes)('for %s', async (_shape, run) => {
    const expected = await outcomeOf(run, plain)
    await appOn(database).run({ name: 'reads' }, async (scope) => {
      expect(await outcomeOf(run, scope.db.$client)).toEqual(expected)
      // And in a transaction, where it takes another way.
      expect(await scope.transaction(() => outcomeOf(run, scope.db.$client)).catch((error) => error.reason)).toEqual(
        (expected as { code?: string }).code?.length === 5 ? 'aborted' : expected,
      )
    })
  })

  it('and writes dates and JSON in raw statements, which plain drizzle leaves its client unable to do', async () => {
    await appOn(database).run({ name: 'writes' }, async (scope) => {
      const sql = scope.db.$client
      const seen = new Date('2026-01-02T03:04:05.678Z')
      await sql`insert into things (name, facts, seen) values ('one', ${sql.json({ a: [1, 'x'] })}, ${seen})`
      await sql`insert into things ${sql({ name: 'two', facts: sql.json('a string'), seen })}`
      await sql`insert into things (name, facts) values ('three', ${{ b: null } as never}::jsonb)`
      const rows = await sql`select facts, seen = ${seen} as same from things order by id`
      expect([...rows]).toEqual([
        { facts: { a: [1, 'x'] }, same: true },
        { facts: 'a string', same: true },
        { facts: { b: null }, same: null },
      ])
    })
  })

  it('and describes a statement without running it', async () => {
    await appOn(database).run({ name: 'describes' }, async (scope) => {
      const described = await scope.db
        .$client`insert into accounts (owner) values (${'ann'}) returning id, owner`.describe()
      expect(described).toMatchObject({
        types: [25],
        columns: [
          { name: 'id', type: 23 },
          { name: 'owner', type: 25 },
        ],
      })
    })
    expect(await ownersIn(database)).toEqual([])
  })

  it('and is typed as postgres.js is', () => {
    expectTypeOf<Database['$client']>().toEqualTypeOf<Sql>()
  })

  it('and knows the types the resource was given', async () => {
    const types = {
      point: {
        to: 600,
        from: [600],
        serialize: ({ x, y }: { x: number; y: number }) => `(${x},${y})`,
        parse: (text: string) => text.slice(1, -1).split(',').map(Number),
      },
    }
    const scopes = createScopes({ resources: { db: postgres({ url: database.url, types: types as never }) } })
    await scopes.run({ name: 'types' }, async (scope) => {
      const sql = scope.db.$client as Sql & { types: { point(value: unknown): never } }
      const [row] = await sql`select ${sql.types.point({ x: 1, y: 2 })}::point as place`
      expect(row).toEqual({ place: [1, 2] })
    })
    await scopes.close()
  })
})

describe('a statement of $client', () => {
  it('is sent when it is awaited, once, however often', async () => {
    await appOn(database).run({ name: 'lazy' }, async (scope) => {
      const query = scope.db.$client`insert into accounts (owner) values ('ann')`
      await scope.db.$client`select 1`
      expect(await ownersIn(database)).toEqual([])
      await Promise.all([query, query, query.then(() => {}), query.catch(() => {}), query.finally(() => {})])
      await query
    })
    expect(await ownersIn(database)).toEqual(['ann'])
  })

  it('is sent at once with execute(), and its failure is told to whoever awaits it', async () => {
    await appOn(database).run({ name: 'eager' }, async (scope) => {
      const query = scope.db.$client`insert into accounts (owner) values ('ann')`.execute()
      await vi.waitFor(async () => expect(await ownersIn(database)).toEqual(['ann']))
      await query
      const failing = scope.db.$client`select * from nowhere`.execute()
      await scope.db.$client`select 1`
      expect(await failureOf(failing)).toMatchObject({ code: '42P01' })
    })
  })

  it('calls forEach with each row, in the context of whoever called it', async () => {
    const app = appOn(database)
    const request = new AsyncLocalStorage<string>()
    await app.run({ name: 'first' }, backendOf) // opens the connection: in another context than the reader's
    await app.run({ name: 'reader' }, (scope) =>
      request.run('mine', async () => {
        const seen: unknown[] = []
        const result = await scope.db.$client`select n from generate_series(1, 3) n`.forEach((row) => {
          seen.push([row.n, request.getStore(), tryCurrentScope() === scope])
        })
        expect(seen).toEqual([1, 2, 3].map((n) => [n, 'mine', true]))
        expect(result).toMatchObject({ count: 3, command: 'SELECT' })
      }),
    )
  })

  it('rejects with what its forEach function throws, and leaves the connection in order', async () => {
    const app = appOn(database, { max: 1 })
    const mistake = new Error('in the row')
    await app.run({ name: 'reader' }, async (scope) => {
      const work = scope.db.$client`select n from generate_series(1, 1000) n`.forEach(() => {
        throw mistake
      })
      expect(await failureOf(work)).toBe(mistake)
      expect([...(await scope.db.$client`select 42 as answer`)]).toEqual([{ answer: 42 }])
    })
    await app.run({ name: 'next' }, async (scope) => {
      expect([...(await scope.db.$client`select 42 as answer`)]).toEqual([{ answer: 42 }])
    })
  })

  it('runs in the transaction around it, and in the one whose client it is', async () => {
    const app = appOn(database)
    await app.run({ name: 'order' }, async (scope) => {
      const work = scope.db.$client.begin(async (sql) => {
        await sql`insert into accounts (owner) values ('by the handle')`
        await scope.db.$client`insert into accounts (owner) values ('by ancestry')`
        await scope.transaction({ propagation: 'notSupported' }, async () => {
          await sql`insert into accounts (owner) values ('by the handle, from outside')`
        })
        throw new Error('roll back')
      })
      await failureOf(work)
    })
    expect(await ownersIn(database)).toEqual([])
  })
})

describe('$client.begin', () => {
  it('commits what its function did, and resolves to its result; several statements at once may be the result', async () => {
    await appOn(database).run({ name: 'order' }, async (scope) => {
      const one = await scope.db.$client.begin(async (sql) => {
        const [row] = await sql<{ owner: string }[]>`insert into accounts (owner) values ('ann') returning owner`
        return row?.owner
      })
      expect(one).toBe('ann')
      const [first, second] = await scope.db.$client.begin((sql) => [
        sql`insert into accounts (owner) values ('bob') returning owner`,
        sql`select count(*)::int as count from accounts`,
      ])
      expect([first?.[0], second?.[0]]).toEqual([{ owner: 'bob' }, { count: 2 }])
    })
    expect(await ownersIn(database)).toEqual(['ann', 'bob'])
  })
})

describe('what would take a connection out of its scope', () => {
  it.each([
    ['reserve', (sql: Sql) => sql.reserve(), 'pin'],
    ['listen', (sql: Sql) => sql.listen('channel', () => {}), 'defineResource'],
    ['subscribe', (sql: Sql) => sql.subscribe('*', () => {}), 'defineResource'],
    ['end', (sql: Sql) => sql.end(), 'scopes.close'],
    ['close', (sql: Sql) => (sql as Sql & { close(): unknown }).close(), 'scopes.close'],
    ['largeObject', (sql: Sql) => sql.largeObject(), 'lo_get'],
    ['file', (sql: Sql) => sql.file('query.sql'), 'unsafe'],
  ])('%s is refused, with what to do instead', async (operation, use, instead) => {
    await appOn(database).run({ name: 'order' }, async (scope) => {
      for (const sql of [scope.db.$client, await scope.db.$client.begin(async (inner) => inner as unknown as Sql)]) {
        const failure = await failureOf(Promise.resolve().then(() => use(sql)))
        expect(failure).toBeInstanceOf(SharedConnectionError)
        expect(failure).toMatchObject({
          operation: `${operation}()`,
          resource: 'db.$client',
          message: expect.stringContaining(instead),
        })
      }
      expect([...(await scope.db.$client`select 1 as one`)]).toEqual([{ one: 1 }])
    })
  })
})

describe('cancel() on a statement', () => {
  it('cancels that one, and not the one that was sent before it', async () => {
    const app = appOn(database, { max: 1 })
    await app.run({ name: 'reader' }, async (scope) => {
      const sql = scope.db.$client
      const before = sql`select pg_sleep(0.2), 1 as n`.execute()
      const slow = sql`select pg_sleep(30)`.execute()
      slow.cancel()
      expect(await failureOf(slow)).toMatchObject({ code: '57014' })
      expect((await before)[0]).toMatchObject({ n: 1 })
      expect([...(await sql`select 3 as n`)]).toEqual([{ n: 3 }])
    })
  })

  it('never hits those that were sent right behind it: rather than that, it is left to finish', async () => {
    const app = appOn(database, { max: 1 })
    await app.run({ name: 'reader' }, async (scope) => {
      const sql = scope.db.$client
      for (let round = 0; round < 20; round++) {
        const first = sql`select pg_sleep(0.005), 1 as n`.execute()
        const behind = [sql`select 2 as n`.execute(), sql`select 3 as n`.execute()]
        first.cancel()
        expect((await Promise.all(behind)).map(([row]) => row)).toEqual([{ n: 2 }, { n: 3 }])
        await first.catch((error) => expect(error).toMatchObject({ code: '57014' }))
      }
    })
  })

  it('before it was sent keeps it from being sent', async () => {
    const app = appOn(database)
    await app.run({ name: 'writer' }, async (scope) => {
      const query = scope.db.$client`insert into accounts (owner) values ('ann')`
      query.cancel()
      expect(await failureOf(query)).toMatchObject({ code: '57014' })
    })
    expect(await ownersIn(database)).toEqual([])
  })

  it('after its answer does nothing to the statement that runs by then', async () => {
    const app = appOn(database, { max: 1 })
    await app.run({ name: 'reader' }, async (scope) => {
      const done = scope.db.$client`select 1 as n`
      await done
      const running = scope.db.$client`select pg_sleep(0.1), 2 as n`.execute()
      done.cancel()
      expect((await running)[0]).toMatchObject({ n: 2 })
    })
  })

  it('in a transaction makes that fail, and leaves a parallel branch alone', async () => {
    const app = appOn(database)
    await app.run({ name: 'writer' }, async (scope) => {
      const inside = new Gate()
      const transaction = scope.transaction(async () => {
        await scope.db.insert(accounts).values({ owner: 'ann' })
        const slow = scope.db.$client`select pg_sleep(30)`.execute()
        await vi.waitFor(async () => {
          const [row] =
            await watch`select 1 from pg_stat_activity where datname = ${database.name} and query = 'select pg_sleep(30)' and state = 'active'`
          expect(row).toBeDefined()
        })
        slow.cancel()
        inside.open()
        await slow
      })
      const failed = failureOf(transaction)
      await inside.passed
      await scope.db.insert(accounts).values({ owner: 'bob' })
      expect(await failed).toMatchObject({ code: '57014' })
    })
    expect(await ownersIn(database)).toEqual(['bob'])
  })
})
