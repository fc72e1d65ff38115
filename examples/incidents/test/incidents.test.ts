import { createDatabase, startPostgres, startRedis } from '@reqscope/services'
import { afterAll, describe, expect, it } from 'vitest'
import { ticksUpTo } from '../src/chart.ts'
import { incidents } from '../src/incidents.ts'
import { compare } from '../src/replay.ts'
import { SERVER_SETTINGS } from '../src/server-settings.ts'

// How many connections they take is set and counted, so they are nobody else's.
const redis = await startRedis({ own: true })
const postgres = await startPostgres({ own: true, settings: SERVER_SETTINGS })
afterAll(() => Promise.all([redis.stop(), postgres.stop()]))

// The long form is `npm run incidents`; there times count, too.
describe.each(incidents({ seconds: 2, messages: 500 }))('incident $number', (incident) => {
  it('happens with the plain libraries, and does not with Reqscope', { timeout: 90_000 }, async () => {
    const database = await createDatabase(postgres)
    const { claims, before, after } = await compare(incident, { databaseUrl: database.url, redisUrl: redis.url })
    expect(
      claims.filter(({ holds, isTimed = false }) => !holds && !isTimed),
      JSON.stringify([before.figures, after.figures]),
    ).toEqual([])
  })
})

describe('the axes of a chart', () => {
  it('go up in round steps, to what is shown', () => {
    expect(ticksUpTo(300)).toEqual([0, 100, 200, 300])
    expect(ticksUpTo(75)).toEqual([0, 20, 40, 60, 80])
    expect(ticksUpTo(0)).toEqual([0])
  })
})
