import { startRedisSentinels } from '@reqscope/services'
import { describe, expect, it, onTestFinished, vi } from 'vitest'
import { isReqscopeError } from '../../src/index.ts'
import { crashes } from '../crashes.ts'
import { key, outside, redisApp } from './fixture.ts'

describe('sentinels', () => {
  it('lead everything to the master, and to the next one when it is gone', async () => {
    const crashed = crashes()
    const sentinels = await startRedisSentinels()
    onTestFinished(() => sentinels.stop())
    const [master, replica] = sentinels.servers
    const app = await redisApp({ sentinels, commandTimeoutMs: 400, connectTimeoutMs: 1_000 })
    const k = key('count')
    const addOne = () =>
      app.run({ name: 'counts' }, async ({ redis }) => {
        await redis.get(k)
        await redis.optimistic([k], async (tx) => tx.multi().set(k, Number(await tx.get(k)) + 1))
        return redis.exclusive(async (connection) => {
          const [role] = (await connection.role()) as [string]
          return [role, await connection.get(k)]
        })
      })
    expect(await addOne()).toEqual(['master', '1'])
    const first = await outside(master.url)
    expect(await first.get(k)).toBe('1')
    const second = await outside(replica.url)
    await vi.waitFor(async () => expect(await second.get(k)).toBe('1'), 5_000)

    master.kill('SIGKILL')
    const errors: unknown[] = []
    const answer = await vi.waitFor(
      () =>
        addOne().catch((error: unknown) => {
          errors.push(error)
          throw error
        }),
      { timeout: 20_000, interval: 50 },
    )
    expect(answer).toEqual(['master', '2'])
    expect(await second.get(k)).toBe('2')
    expect(errors.length).toBeGreaterThan(0)
    expect(errors.filter((error) => !isReqscopeError(error))).toEqual([])
    expect(crashed).toEqual([])
    expect(app.snapshot().leases).toEqual([])
  }, 60_000)
})
