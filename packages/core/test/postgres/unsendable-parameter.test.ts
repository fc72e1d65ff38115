import { sql } from 'drizzle-orm'
import { describe, expect, it } from 'vitest'
import { type App, accountsDatabase, appOn, backendOf, failureOf } from './fixture.ts'

// A value that can't be turned into a parameter is found out by the client while it sends. When another statement was on
// its way on the same connection, postgres.js told that one, and left the wrong one without an answer for ever.

const database = await accountsDatabase()

type Scope = Parameters<Parameters<App['run']>[1]>[0]

const unsendable: [name: string, send: (scope: Scope) => PromiseLike<unknown>, error: object][] = [
  [
    'undefined in an array',
    ({ db }) => db.$client.unsafe('select $1::int[]', [[1, undefined] as never]),
    { code: 'UNDEFINED_VALUE' },
  ],
  ['undefined in raw SQL of drizzle', ({ db }) => db.execute(sql`select ${undefined}::int as nr`), {}],
  [
    'an invalid date in raw SQL of drizzle',
    ({ db }) => db.execute(sql`select ${new Date('nonsense')}::timestamptz as at`),
    { cause: { name: 'RangeError' } },
  ],
  ['a symbol', ({ db }) => db.$client.unsafe('select $1::text', [Symbol('s') as never]), { name: 'TypeError' }],
  [
    'no rows in an insert helper',
    ({ db }) => db.$client`insert into accounts ${db.$client([] as never)}`,
    { name: 'TypeError' },
  ],
  [
    'more rows in an insert helper than there may be parameters',
    ({ db }) => {
      const rows = Array.from({ length: 40_000 }, (_each, nr) => ({ owner: 'a', balance: nr }))
      return db.$client`insert into accounts ${db.$client(rows)}`
    },
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
