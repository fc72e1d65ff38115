import { expect, it } from 'vitest'
import { accountsDatabase, appOn } from './fixture.ts'

const database = await accountsDatabase()

// Past the timeout of the pool and the 5 s in which an answer must have come then.
const LONG = 6

it.concurrent('set in a transaction holds, and the connection is not given up before it', async () => {
  const app = appOn(database, { statementTimeoutMs: 500 })
  await app.run({ name: 'report' }, async (scope) => {
    await scope.transaction(async () => {
      await scope.db.$client`set local statement_timeout = '20s'`
      const rows = await scope.db.$client`select pg_sleep(${LONG}), 1 as done`
      expect(rows[0]?.done).toBe(1)
    })
  })
})

it.concurrent('set in the settings of every session holds', async () => {
  const app = appOn(database, { statementTimeoutMs: 500, settings: { statement_timeout: '20s' } })
  const rows = await app.run({ name: 'report' }, ({ db }) => db.$client`select pg_sleep(${LONG}), 1 as done`)
  expect(rows[0]?.done).toBe(1)
})
