import { startRedis } from '@reqscope/services'
import { testDatabase } from '@reqscope/services/testing'
import { expect, it, onTestFinished } from 'vitest'
import { history } from './history.ts'

const database = await testDatabase()

it.each(['redis', 'postgres'] as const)(
  'a history of locks in %s is sound, with processes paused, connections cut and the server restarted',
  async (store) => {
    const redis = await startRedis({ own: true, aof: true })
    onTestFinished(() => redis.stop())
    const result = await history({ store, seconds: 5, processes: 3, redis, postgres: database.url, faults: true })
    expect(result.violations).toEqual([])
    expect(result.holds).toBeGreaterThan(store === 'redis' ? 50 : 20)
    expect(result.writes).toBeGreaterThan(20)
    expect(result.cuts).toBeGreaterThan(0)
    expect(result.pauses).toBeGreaterThan(0)
  },
  40_000,
)
