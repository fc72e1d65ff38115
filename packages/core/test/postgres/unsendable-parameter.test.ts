import { sql } from 'drizzle-orm'
import { describe, expect, it } from 'vitest'
import { type App, accountsDatabase, appOn, backendOf, failureOf } from './fixture.ts'

// A value that can't be turned into a parameter is found out by the client while it sends. When another statement was on
// its way on the same connection, postgres.js told that one, and left the wrong one without an answer for ever.

const database = await accountsDatabase()

type Scope = Parameters<Parameters<App['run']>[1]>[0]

const circular: { self?: unknown } = {}
circular.self = circular

const unsendable: [name: string, send: (scope: Scope) => PromiseLike<unknown>, error: object][] = [
  [
    'undefined in a template',
    ({ db }) => db.$client`select ${undefined as never}::int as nr`,
    { code: 'UNDEFINED_VALUE' },
  ],
  [
    'undefined among parameters',
    ({ db }) => db.$client.unsafe('select $1::int, $2::int', [1, undefined as never]),
    { code: 'UNDEFINED_VALUE' },
  ],
  [
    'undefined in an insert helper',
    ({ db }) => db.$client`insert into accounts ${db.$client({ owner: 'a', balance: undefined as never })}`,
    { code: 'UNDEFINED_VALUE' },
  ],
  [
    'undefined in a fragment',
    ({ db }) => db.$client`select ${db.$client`${undefined as never}::int`} as nr`,
    { code: 'UNDEFINED_VALUE' },
  ],
  [
    'undefined in a list',
    ({ db }) => db.$client.unsafe('select $1::int[]', [[1, undefined] as never]),
    { code: 'UNDEFINED_VALUE' },
  ],
  ['undefined through drizzle', ({ db }) => db.execute(sql`select ${undefined}::int as nr`), {}],
  [
    'an invalid date',
    ({ db }) => db.$client`select ${new Date('nonsense')}::timestamptz as at`,
    { name: 'RangeError' },
  ],
  [
    'an invalid date through drizzle',
    ({ db }) => db.execute(sql`select ${new Date('nonsense')}::timestamptz as at`),
    { cause: { name: 'RangeError' } },
  ],
  [
    'an object in a circle',
    ({ db }) => db.$client`select ${circular as never}::jsonb as value`,
    { name: 'TypeError', message: expect.stringContaining('circular') },
  ],
  [
    'a BigInt in JSON',
    ({ db }) => db.$client`select ${{ big: 1n } as never}::jsonb as value`,
    { name: 'TypeError', message: expect.stringContaining('BigInt') },
  ],
  ['a number as bytes', ({ db }) => db.$client.unsafe('select $1::bytea', [7]), { name: 'TypeError' }],
  ['a symbol', ({ db }) => db.$client.unsafe('select $1::text', [Symbol('s') as never]), { name: 'TypeError' }],
  [
    'no rows in an insert helper',
    ({ db }) => db.$client`insert into accounts ${db.$client([] as never)}`,
    { name: 'TypeError' },
  ],
  [
    'more parameters than there may be',
    ({ db }) =>
      db.$client.unsafe(
        `select ${Array.from({ length: 65_535 }, (_each, nr) => `$${nr + 1}::int`).join('+')}`,
        Array.from({ length: 65_535 }, () => 1),
      ),
    { code: 'MAX_PARAMETERS_EXCEEDED' },
  ],
  [
    'more rows in an insert helper than there may be',
    ({ db }) =>
      db.$client`insert into accounts ${db.$client(Array.from({ length: 40_000 }, (_each, nr) => ({ owner: 'a', balance: nr })))}`,
    { code: 'MAX_PARAMETERS_EXCEEDED' },
  ],
]

describe('a value that cannot be sent is the error of its own statement, of no other one, and leaves nobody waiting:', () => {
  it.each(unsendable)('%s', async (_name, send, error) => {
    const app = appOn(database, { max: 1 })
    let first = 0
    await app.run({ name: 'sends' }, async (scope) => {
      first = await backendOf(scope)
      // Alone and among others; the first time, and when it has been prepared.
      for (let round = 0; round < 4; round++) {
        expect(await failureOf(send(scope))).toMatchObject(error)
        const before = scope.db.$client`select ${round}::int as nr from pg_sleep(0.005)`.execute()
        const wrong = [failureOf(send(scope)), failureOf(send(scope))]
        const behind = scope.db.$client`select ${round + 1}::int as nr`.execute()
        expect(await before).toMatchObject([{ nr: round }])
        for (const failure of await Promise.all(wrong)) expect(failure).toMatchObject(error)
        expect(await behind).toMatchObject([{ nr: round + 1 }])
      }
    })
    expect(await app.run({ name: 'next' }, backendOf)).toBe(first)
    expect(app.logs).toEqual([])
  })

  it.each(unsendable)('%s, in a transaction, which rolls back as for any other error', async (_name, send, error) => {
    const app = appOn(database, { max: 1 })
    const backend = await app.run({ name: 'before' }, backendOf)
    for (let round = 0; round < 3; round++) {
      const failure = await failureOf(app.run({ name: 'sends' }, (scope) => scope.transaction(() => send(scope))))
      expect(failure).toMatchObject(error)
    }
    expect(await app.run({ name: 'next' }, backendOf)).toBe(backend)
  })
})

describe('a value that other clients of postgres.js send goes through $client, although drizzle has its own ways:', () => {
  it.each<[string, string, unknown, unknown]>([
    ['a date', 'timestamptz', new Date('2024-02-29T12:00:00Z'), '2024-02-29 12:00:00+00'],
    ['a date without a zone', 'timestamp', new Date('2024-02-29T12:00:00Z'), '2024-02-29 12:00:00'],
    ['a day', 'date', new Date('2024-02-29T12:00:00Z'), '2024-02-29'],
    ['a day as text', 'date', '2024-02-29', '2024-02-29'],
    ['dates as text', 'timestamptz[]', ['2024-02-29T12:00:00Z'], '{"2024-02-29 12:00:00+00"}'],
    ['an object', 'jsonb', { a: [1, 'x'] }, { a: [1, 'x'] }],
    ['an object as text', 'jsonb', '{"a":1}', { a: 1 }],
    ['bytes', 'bytea', Buffer.from([0, 255]), Buffer.from([0, 255])],
  ])('%s', async (_name, type, value, expected) => {
    await appOn(database).run({ name: 'sends' }, async (scope) => {
      const { $client } = scope.db
      for (let round = 0; round < 3; round++) {
        const [row] = await $client.unsafe(`select $1::${type} as value`, [value as never])
        expect(row?.value).toEqual(expected)
      }
    })
  })

  it('sql.json and dates in an array', async () => {
    await appOn(database).run({ name: 'sends' }, async (scope) => {
      const { $client } = scope.db
      const dates = $client.array([new Date('2024-02-29T12:00:00Z')] as never)
      const [row] = await $client`select ${$client.json({ a: 1 })} as value, ${dates}::timestamptz[] as dates`
      expect(row).toEqual({ value: { a: 1 }, dates: '{"2024-02-29 12:00:00+00"}' })
    })
  })
})
