import { setImmediate as turn } from 'node:timers/promises'
import { expect, it } from 'vitest'
import { accountsDatabase, appOn } from './fixture.ts'

const database = await accountsDatabase()

it('gives back a connection whose cursor was cancelled only when the cancel request is through', async () => {
  const app = appOn(database, { max: 2 })
  let reading = true
  let cancelled = 0
  const read = async (turns: number) => {
    const abort = new AbortController()
    const done = app.run({ name: 'reader', signal: abort.signal }, async ({ db }) => {
      for await (const rows of db.$client`select g from generate_series(1, 1000) g`.cursor(100)) {
        if (rows[0]?.g !== 1) continue
        void (async () => {
          for (let count = 0; count < turns; count++) await turn()
          abort.abort()
        })()
      }
    })
    await done.catch((error: unknown) => {
      cancelled++
      expect(error).toMatchObject({ code: 'RSC_SCOPE_ABORTED' })
    })
  }
  const ask = async () => {
    for (let number = 0; reading; number++) {
      // Were it hit by a request that was meant for a reader, it would reject with 57014.
      const rows = await app.run({ name: 'innocent' }, ({ db }) => db.$client`select ${number}::int as number`)
      expect([...rows]).toEqual([{ number }])
    }
  }
  const innocent = [ask(), ask(), ask()]
  for (let round = 0; round < 150; round++) await Promise.all([read(round % 12), read((round + 5) % 12)])
  reading = false
  await Promise.all(innocent)
  expect(cancelled).toBeGreaterThan(50)
})
