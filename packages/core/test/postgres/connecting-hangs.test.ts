import { expect, it } from 'vitest'
import { accountsDatabase, appOn } from './fixture.ts'
import { forwarderTo } from './forwarder.ts'

const database = await accountsDatabase()

it('serves whoever waits with a connection that another scope only keeps, while a new one does not come', async () => {
  // The first connection is the one that start opens; nothing answers on those after it.
  const url = await forwarderTo(database.url, { accepts: (count) => count === 1 })
  const app = appOn(url, { max: 5, acquireTimeoutMs: 3_000, connectTimeoutMs: 10_000 })
  await app.run({ name: 'keeps' }, async ({ db }) => {
    await db.$client`select 1`
    const rows = await app.run({ name: 'waits' }, (other) => other.db.$client`select 2 as two`)
    expect([...rows]).toEqual([{ two: 2 }])
  })
})
