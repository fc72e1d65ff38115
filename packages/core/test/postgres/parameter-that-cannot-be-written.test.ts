import { eq } from 'drizzle-orm'
import type { Sql } from 'postgres'
import { beforeEach, describe, expect, it } from 'vitest'
import { accounts, accountsDatabase, appOn, failureOf, ownersIn } from './fixture.ts'

// postgres.js finds out while it sends, and then rejects whatever statement is in flight; the one at fault stays in its
// queue and takes the answer of the next one.

const database = await accountsDatabase()
const { watch } = database

beforeEach(async () => {
  await watch`truncate accounts restart identity`
})

const UNDEFINED: [string, (sql: Sql) => PromiseLike<unknown>][] = [
  ['a hole', (sql) => sql`select ${undefined as never}::int`],
  ['a fragment', (sql) => sql`select 1 where ${sql`1 = ${undefined as never}`}`],
  ['a list of fragments', (sql) => sql`select 1 where true ${[sql`and 1 = 1`, sql`and 1 = ${undefined as never}`]}`],
  ['a row', (sql) => sql`insert into accounts ${sql({ owner: undefined } as never)}`],
  ['one of several rows', (sql) => sql`insert into accounts ${sql([{ owner: 'a' }, { owner: undefined }] as never)}`],
  ['a list', (sql) => sql`select 1 where 1 in ${sql([1, undefined] as never)}`],
  ['a typed value', (sql) => sql`select ${sql.typed(undefined as never, 23)}::int`],
  ['the parameters of unsafe', (sql) => sql.unsafe('select $1::int', [undefined as never])],
]

describe('a parameter that cannot be written', () => {
  it.each(UNDEFINED)('because it is undefined, in %s, fails its own statement and no other', async (_where, run) => {
    const app = appOn(database, { max: 1 })
    await app.run({ name: 'parallel' }, async ({ db }) => {
      const sql = db.$client
      const [before, failed, after] = await Promise.allSettled([sql`select 1 as n`, run(sql), sql`select 3 as n`])
      expect(before.status === 'fulfilled' && [...before.value]).toEqual([{ n: 1 }])
      expect(failed).toMatchObject({ status: 'rejected', reason: { code: 'UNDEFINED_VALUE' } })
      expect(after.status === 'fulfilled' && [...after.value]).toEqual([{ n: 3 }])
      expect([...(await sql`select 4 as n`)]).toEqual([{ n: 4 }])
    })
  })

  it('because it is undefined may stand in a column that is not asked for', async () => {
    await appOn(database).run({ name: 'insert' }, async ({ db }) => {
      const sql = db.$client
      await sql`insert into accounts ${sql({ owner: 'ann', balance: undefined } as never, 'owner')}`
    })
    expect(await ownersIn(database)).toEqual(['ann'])
  })

  it("because it is undefined fails drizzle's statement and not its transaction", async () => {
    await appOn(database).run({ name: 'order' }, async (scope) => {
      await scope.transaction(async () => {
        const failure = await failureOf(
          scope.db
            .select()
            .from(accounts)
            .where(eq(accounts.id, undefined as never)),
        )
        expect(failure).toMatchObject({ cause: { code: 'UNDEFINED_VALUE' } })
        await scope.db.insert(accounts).values({ owner: 'ann' })
      })
    })
    expect(await ownersIn(database)).toEqual(['ann'])
  })

  it('because there are too many of them fails the statement and not its transaction', async () => {
    const rows = Array.from({ length: 22_000 }, (_, id) => ({ id, owner: 'many', balance: id }))
    await appOn(database).run({ name: 'import' }, async (scope) => {
      await scope.transaction(async () => {
        const failure = await failureOf(scope.db.insert(accounts).values(rows))
        expect(failure).toMatchObject({ cause: { code: 'MAX_PARAMETERS_EXCEEDED' } })
        await scope.db.insert(accounts).values(rows.slice(0, 21_000))
      })
    })
    expect(await ownersIn(database)).toHaveLength(21_000)
  })

  it.each<[string, string, unknown, unknown]>([
    ['a date that is none', 'select $1::timestamptz as value', '2026-01-01T00:00:00Z', new Date(Number.NaN)],
    ['a number as a date', 'select $1::timestamptz as value', '2026-01-01T00:00:00Z', 1_767_225_600_000],
    ['a number as bytes', 'select $1::bytea as value', Buffer.from('x'), 5],
    ['an object with a cycle as JSON', 'select $1::jsonb as value', '{}', cycle()],
    ['a bigint in JSON', 'select $1::jsonb as value', '{}', { big: 1n }],
  ])(
    'as %s fails its own statement and no other, also when the statement is prepared',
    async (_what, text, good, bad) => {
      const app = appOn(database, { max: 1 })
      await app.run({ name: 'parallel' }, async ({ db }) => {
        const sql = db.$client
        for (let times = 0; times < 4; times++) await sql.unsafe(text, [good as never])
        const [before, failed, after] = await Promise.allSettled([
          sql`select 1 as n`,
          sql.unsafe(text, [bad as never]),
          sql`select 3 as n`,
        ])
        expect(before.status === 'fulfilled' && [...before.value]).toEqual([{ n: 1 }])
        expect(failed.status).toBe('rejected')
        expect(after.status === 'fulfilled' && [...after.value]).toEqual([{ n: 3 }])
        expect([...(await sql`select 4 as n`)]).toEqual([{ n: 4 }])
      })
    },
  )
})

function cycle(): unknown {
  const value: Record<string, unknown> = {}
  value.itself = value
  return value
}
