import { createDatabase, startPostgres, startRedis } from '@reqscope/services'
import { testDatabase } from '@reqscope/services/testing'
import { describe, expect, it, onTestFinished } from 'vitest'
import { DEADLINE_MS, type Outage, outage, shopLike } from '../src/outage.ts'

// The long form is `npm run outage`: ten seconds for each.
describe('a server that is killed under load and comes back', () => {
  const expectRecovery = (told: Outage) => {
    expect(told.longestMs).toBeLessThan(DEADLINE_MS + 1_000)
    expect(told.recoveredAfterMs).toBeLessThan(2_000)
    expect(told).toMatchObject({ leasesLeft: 0, openScopesLeft: 0 })
    expect(told.outcomes).not.toMatch(/gave up|connection lost| 500/)
  }

  it('is Postgres: errors are typed and quick, and end by themselves', async () => {
    const [server, redis] = [await startPostgres({ own: true }), await startRedis({ own: true })]
    onTestFinished(async () => void (await Promise.all([server.stop(), redis.stop()])))
    const { url } = await createDatabase(server)
    const told = await outage(await shopLike(url, redis.url), server, 2)
    expect(told.outcomes).toMatch(/RSC_CIRCUIT_OPEN/)
    expectRecovery(told)
  }, 60_000)

  it('is Redis: its limits are counted in the process meanwhile, so nobody sees anything', async () => {
    const redis = await startRedis({ own: true })
    onTestFinished(() => redis.stop())
    const { url } = await testDatabase()
    const told = await outage(await shopLike(url, redis.url), redis, 2)
    expect(told.outcomes).toMatch(/^200 × \d+$/)
    expectRecovery(told)
  }, 60_000)
})
