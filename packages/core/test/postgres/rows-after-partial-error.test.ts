import { describe, expect, it } from 'vitest'
import { accountsDatabase, appOn } from './fixture.ts'

const database = await accountsDatabase()

// More rows than the server's send buffer holds, so some of them are out before the error comes.
const failsHalfWay = 'select 1 / (9000 - g) from generate_series(1, 10000) g'

// postgres.js counts the rows of a connection and does not begin again after an error between them.
describe('a statement that failed after some of its rows had come', () => {
  it('leaves no holes in the result of the next scope on that connection', async () => {
    const app = appOn(database, { max: 1 })
    await app.run({ name: 'fails' }, ({ db }) => db.$client.unsafe(failsHalfWay)).catch(() => {})
    const rows = await app.run({ name: 'next' }, ({ db }) => db.$client`select 42 as answer`)
    expect([...rows]).toEqual([{ answer: 42 }])
  })

  it('leaves no holes in a statement that was sent right behind it', async () => {
    const app = appOn(database, { max: 1 })
    await app.run({ name: 'parallel' }, async ({ db }) => {
      const [failed, next] = await Promise.allSettled([
        db.$client.unsafe(failsHalfWay),
        db.$client`select 42 as answer`,
      ])
      expect(failed.status).toBe('rejected')
      expect(next.status === 'fulfilled' && [...next.value]).toEqual([{ answer: 42 }])
    })
  })

  it('leaves no holes in the first batch of a cursor, nor in the first of several results', async () => {
    const app = appOn(database, { max: 1 })
    await app.run({ name: 'fails' }, ({ db }) => db.$client.unsafe(failsHalfWay)).catch(() => {})
    await app.run({ name: 'cursor' }, async ({ db }) => {
      const batches: unknown[] = []
      for await (const rows of db.$client`select g from generate_series(1, 3) g`.cursor(2)) batches.push([...rows])
      expect(batches).toEqual([[{ g: 1 }, { g: 2 }], [{ g: 3 }]])
    })
    await app.run({ name: 'fails' }, ({ db }) => db.$client.unsafe(failsHalfWay)).catch(() => {})
    const results = await app.run({ name: 'several' }, ({ db }) => db.$client.unsafe('select 1 as a; select 2 as b'))
    expect(results.map((rows) => [...(rows as unknown as unknown[])])).toEqual([[{ a: 1 }], [{ b: 2 }]])
  })
})
