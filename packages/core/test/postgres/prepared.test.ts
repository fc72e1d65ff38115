import { inArray, sql } from 'drizzle-orm'
import { beforeAll, describe, expect, it } from 'vitest'
import { type App, accounts, accountsDatabase, appOn, failureOf } from './fixture.ts'

const database = await accountsDatabase()

type Scope = Parameters<Parameters<App['run']>[1]>[0]

beforeAll(() => database.watch`insert into accounts (owner) select 'nr ' || nr from generate_series(1, 10) nr`)

/** The texts that the server keeps prepared for the scope's connection. */
async function prepared(scope: Scope): Promise<string[]> {
  const rows = await scope.db.$client.unsafe('select statement from pg_prepared_statements order by prepare_time')
  return rows.map(({ statement }) => statement as string)
}

describe('a statement', () => {
  it('that is repeated is prepared, drizzle’s and raw ones', async () => {
    const app = appOn(database)
    await app.run({ name: 'repeats' }, async (scope) => {
      for (let round = 0; round < 3; round++) {
        await scope.db
          .select({ id: accounts.id })
          .from(accounts)
          .where(inArray(accounts.id, [1, 2]))
        await scope.db.$client`select owner from accounts where id = ${round}`
        await scope.db.$client.unsafe('select balance from accounts where id = $1', [round])
        await scope.db.query.accounts.findFirst({ columns: { owner: true } })
        await scope.db.execute(sql`select ${round}::int as nr`)
      }
      const texts = await prepared(scope)
      expect(texts).toHaveLength(5)
      expect(texts).toEqual(
        expect.arrayContaining([
          'select "id" from "accounts" where "accounts"."id" in ($1, $2)',
          'select owner from accounts where id = $1',
          'select balance from accounts where id = $1',
          'select $1::int as nr',
        ]),
      )
    })
  })

  it('that comes once is not', async () => {
    const app = appOn(database)
    await app.run({ name: 'once' }, async (scope) => {
      await scope.db
        .select()
        .from(accounts)
        .where(inArray(accounts.id, [1, 2, 3]))
      await scope.db.$client`select owner from accounts where id = ${1}`
      expect(await prepared(scope)).toEqual([])
    })
  })

  it('that was seen on one connection is prepared at once on another one', async () => {
    const app = appOn(database, { max: 2 })
    const read = (scope: Scope) => scope.db.$client`select owner from accounts where id = ${1}`
    await app.run({ name: 'first' }, async (first) => {
      await first.transaction(async () => {
        await read(first)
        await app.run({ name: 'second' }, async (second) => {
          await read(second)
          expect(await prepared(second)).toHaveLength(1)
        })
        expect(await prepared(first)).toHaveLength(0)
      })
    })
  })

  it('is not prepared with prepare: false, however often it comes', async () => {
    const app = appOn(database, { prepare: false })
    await app.run({ name: 'repeats' }, async (scope) => {
      for (let round = 0; round < 5; round++) {
        await scope.db
          .select()
          .from(accounts)
          .where(inArray(accounts.id, [1, 2]))
        await scope.db.$client`select owner from accounts where id = ${round}`
        await scope.db.$client`select owner from accounts where id = ${round}`.describe()
        const named = scope.db
          .select()
          .from(accounts)
          .where(inArray(accounts.id, [1]))
          .prepare('named')
        expect(await named.execute()).toHaveLength(1)
      }
      expect(await prepared(scope)).toEqual([])
    })
  })

  it('is not prepared with maxPrepared: 0', async () => {
    const app = appOn(database, { maxPrepared: 0 })
    await app.run({ name: 'repeats' }, async (scope) => {
      for (let round = 0; round < 5; round++) await scope.db.$client`select owner from accounts where id = ${round}`
      expect(await prepared(scope)).toEqual([])
    })
  })

  it('with fragments or lists in it is not prepared: its text is another one each time', async () => {
    const app = appOn(database)
    await app.run({ name: 'builds' }, async (scope) => {
      const { $client } = scope.db
      for (let round = 0; round < 5; round++) {
        const columns = $client(['id', 'owner'])
        const condition = $client`id = ${round}`
        await $client`select ${columns} from accounts where ${condition}`
        await $client`select owner from accounts where id in ${$client([1, 2])}`
      }
      expect(await prepared(scope)).toEqual([])
    })
  })

  it('that is prepared goes on working after a migration has changed what it returns', async () => {
    const app = appOn(database)
    await app.run({ name: 'migrates' }, async (scope) => {
      const read = () => scope.db.$client`select * from accounts where id = ${1}`
      await read()
      await read()
      expect(await prepared(scope)).toHaveLength(1)
      await database.watch`alter table accounts add column note text default 'new'`
      expect(await read()).toMatchObject([{ note: 'new' }])
      await database.watch`alter table accounts drop column note`
    })
  })

  it('that is prepared works in the next scope too, also after its connection was reset', async () => {
    const app = appOn(database, { max: 1 })
    for (let round = 0; round < 3; round++) {
      await app.run({ name: 'sets' }, async (scope) => {
        await scope.db.execute(sql`set work_mem to '8MB'`)
        expect(await scope.db.$client`select owner from accounts where id = ${1}`).toHaveLength(1)
      })
    }
    await app.run({ name: 'looks' }, async (scope) => {
      expect(await prepared(scope)).toEqual(['select owner from accounts where id = $1'])
      expect(await scope.db.$client`show work_mem`).toMatchObject([{ work_mem: '4MB' }])
    })
  })
})

describe('what is prepared on a connection is bounded:', () => {
  it('10,000 distinct texts, each sent twice, leave at most maxPrepared of them with the server', async () => {
    const app = appOn(database, { max: 1, maxPrepared: 100 })
    await app.run({ name: 'many texts' }, async (scope) => {
      for (let from = 0; from < 10_000; from += 500) {
        const batch = Array.from({ length: 500 }, (_each, index) => `select $1::int + ${from + index} as sum`)
        for (const _round of [1, 2]) {
          const sums = await Promise.all(batch.map((text) => scope.db.$client.unsafe(text, [1])))
          expect(sums.at(-1)).toMatchObject([{ sum: from + 500 }])
        }
      }
      expect((await prepared(scope)).length).toBe(100)
    })
  })

  it('lists of every length, each used once, leave none', async () => {
    const app = appOn(database, { max: 1 })
    await app.run({ name: 'lists' }, async (scope) => {
      for (let length = 1; length <= 300; length++) {
        const ids = Array.from({ length }, (_each, id) => id)
        await scope.db.select({ id: accounts.id }).from(accounts).where(inArray(accounts.id, ids))
      }
      expect(await prepared(scope)).toEqual([])
    })
  })

  it.each<[string, (scope: Scope, round: number) => PromiseLike<unknown>]>([
    [
      'one text with parameters of other types each time',
      (scope, round) => {
        const values = [true, 'x', 1n, new Date(0), Buffer.from('x'), null, 1]
        const texts = ['a', 'b', 'c', 'd'].map((name, place) => `$${place + 1}::text as ${name}`)
        const given = texts.map((_text, place) => values[Math.floor(round / 7 ** place) % 7] as never)
        return scope.db.$client.unsafe(`select ${texts.join(', ')}`, given)
      },
    ],
    [
      'one text with lists of other types each time',
      (scope, round) => {
        const values = [[true], ['x'], [1n], [Buffer.from('x')], [null], [1], [[true]], [[1n]]]
        const texts = ['a', 'b', 'c', 'd'].map((name, place) => `$${place + 1}::text as ${name}`)
        const given = texts.map((_text, place) => values[Math.floor(round / 9 ** place) % 8] as never)
        return scope.db.$client.unsafe(`select ${texts.join(', ')}`, given)
      },
    ],
    [
      'one text with typed parameters of other types each time',
      (scope, round) => {
        const { $client } = scope.db
        const types = [16, 20, 21, 23, 25, 114, 700, 701, 1043, 1700, 2950, 3802]
        const given = [0, 1].map((place) =>
          $client.typed('1' as never, types[Math.floor(round / 12 ** place) % 12] as number),
        )
        return failureOf($client`select ${given[0] as never} is null as a, ${given[1] as never} is null as b`).catch(
          () => {},
        )
      },
    ],
    ['descriptions of one text', (scope) => scope.db.$client`select owner from accounts where id = ${1}`.describe()],
    [
      'descriptions of other texts each time',
      (scope, round) => scope.db.$client.unsafe(`select ${round}::int as nr`).describe(),
    ],
  ])('%s', async (_name, send) => {
    const app = appOn(database, { max: 1, maxPrepared: 20 })
    await app.run({ name: 'many variants' }, async (scope) => {
      for (let round = 0; round < 200; round++) await send(scope, round)
      expect((await prepared(scope)).length).toBeLessThanOrEqual(20)
    })
  })
})
