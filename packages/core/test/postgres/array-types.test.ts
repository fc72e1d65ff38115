import { inArray, sql } from 'drizzle-orm'
import { integer, pgTable, text } from 'drizzle-orm/pg-core'
import { beforeAll, describe, expect, it } from 'vitest'
import { accounts, accountsDatabase, appOn } from './fixture.ts'

const database = await accountsDatabase()

const tagged = pgTable('tagged', { tags: text('tags').array(), grid: integer('grid').array().array() })

beforeAll(async () => {
  await database.watch.unsafe(
    `create type mood as enum ('so so', 'good'); create table tagged (tags text[], grid int[][])`,
  )
})

/** What a raw statement gives for one value. */
async function read(expression: string): Promise<unknown> {
  return appOn(database).run({ name: 'reads' }, async (scope) => {
    const [row] = await scope.db.$client.unsafe(`select ${expression} as value`)
    return row?.value
  })
}

describe('an array', () => {
  it.each<[string, unknown]>([
    [`'{}'::int[]`, []],
    [`'{1,2,-3}'::int[]`, [1, 2, -3]],
    [`'{1,NULL,3}'::int[]`, [1, null, 3]],
    [
      `'{{1,2},{3,4}}'::int[]`,
      [
        [1, 2],
        [3, 4],
      ],
    ],
    [`'[0:1]={7,8}'::int[]`, [7, 8]],
    [`'{1.5,2}'::float8[]`, [1.5, 2]],
    [`'{t,f,NULL}'::bool[]`, [true, false, null]],
    [`'{9007199254740993}'::bigint[]`, ['9007199254740993']],
    [
      `array['a', 'b c', '', 'NULL', 'a,b', '{c}', 'say "hi"', 'back\\slash', e'two\\nlines', 'ünï']`,
      ['a', 'b c', '', 'NULL', 'a,b', '{c}', 'say "hi"', 'back\\slash', 'two\nlines', 'ünï'],
    ],
    [`array['so so', 'good']::mood[]`, ['so so', 'good']],
    [`array['{"a": [1, 2]}', '"x"', 'null']::jsonb[]`, [{ a: [1, 2] }, 'x', null]],
    [`array['(1,2),(0,0)', '(3,4),(0,0)']::box[]`, ['(1,2),(0,0)', '(3,4),(0,0)']],
    [`array['\\x00ff'::bytea]`, [Buffer.from([0, 255])]],
    [`array['11111111-1111-1111-1111-111111111111'::uuid]`, ['11111111-1111-1111-1111-111111111111']],
  ])('%s is read as what it is', async (expression, expected) => {
    const value = await read(expression)
    expect(value).toEqual(expected)
  })

  it.each<[string, unknown]>([
    ['int[]', []],
    ['int[]', [1, null, 3]],
    [
      'int[]',
      [
        [1, 2],
        [3, 4],
      ],
    ],
    ['text[]', ['a,b', '{c}', 'say "hi"', 'back\\slash', '', 'NULL', null]],
    ['mood[]', ['so so', 'good']],
  ])('goes to the server and comes back: %s %j', async (type, value) => {
    await appOn(database).run({ name: 'writes' }, async (scope) => {
      const [row] = await scope.db.$client.unsafe(`select $1::${type} as value`, [value as never])
      expect(row?.value).toEqual(value)
    })
  })

  it.each<[string, unknown[]]>([
    ['bool[]', [true, false]],
    ['int[]', [1, 2]],
    ['text[]', ['a', 'b,c']],
    ['bytea[]', [Buffer.from([0, 255])]],
  ])('made with $client.array goes to the server and comes back: %s %j', async (type, value) => {
    await appOn(database).run({ name: 'writes' }, async (scope) => {
      const { $client } = scope.db
      const [row] = await $client`select ${$client.array(value as string[])}::${$client.unsafe(type)} as value`
      expect(row?.value).toEqual(value)
      const [built] =
        await $client`with given ${$client.unsafe('(value)')} as (values ${$client([[$client.array(value as string[])]] as never)})
        select value::${$client.unsafe(type)} as value from given`
      expect(built?.value).toEqual(value)
    })
  })

  it('of undefined values is refused before it is sent', async () => {
    await appOn(database).run({ name: 'writes' }, async (scope) => {
      const query = scope.db.$client.unsafe('select $1::int[] as value', [[1, undefined] as never])
      await expect(query).rejects.toMatchObject({ code: 'UNDEFINED_VALUE' })
    })
  })

  it('in a column of drizzle’s is what its type says', async () => {
    await appOn(database).run({ name: 'drizzle' }, async (scope) => {
      const rows = [
        {
          tags: ['a', 'b"c'],
          grid: [
            [1, 2],
            [3, 4],
          ],
        },
        { tags: [], grid: null },
      ]
      expect(await scope.db.insert(tagged).values(rows).returning()).toEqual(rows)
    })
  })

  it('in a condition of drizzle’s works', async () => {
    await appOn(database).run({ name: 'drizzle' }, async (scope) => {
      await scope.db.insert(accounts).values([{ owner: 'a' }, { owner: 'b' }, { owner: 'c' }])
      expect(await scope.db.$count(accounts, inArray(accounts.owner, ['a', 'c']))).toBe(2)
      const any = sql`${accounts.owner} = any(${sql.param(['b', 'c'])})`
      expect(await scope.db.$count(accounts, any)).toBe(2)
    })
  })
})
