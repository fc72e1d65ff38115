import { describe, expect, it } from 'vitest'
import { Command } from './command.ts'

describe('npm start -- --smoke', { timeout: 90_000 }, () => {
  it.each([[[]], [['--no-redis']]])('finds that all is well, and ends with one line of JSON %j', async (more) => {
    const smoke = new Command('--smoke', '3', '--json', '--seed', '7', ...more)
    const code = await smoke.exited
    const result = JSON.parse(smoke.stdout.trimEnd().split('\n').at(-1) ?? '')
    expect(result, smoke.stdout + smoke.stderr).toEqual({
      requests: expect.any(Number),
      aborted: expect.any(Number),
      unexpected5xx: 0,
      leasesOut: 0,
      idleInTransaction: 0,
      pgConnectionsOverMax: 0,
      ordersWithoutLines: 0,
      stockMismatch: 0,
      ordersWithoutReceipt: 0,
      receiptsWithoutOrder: 0,
      redisClientsGrowth: 0,
      rssGrowthMiB: expect.any(Number),
      ok: true,
    })
    expect(code).toBe(0)
    expect(result.requests).toBeGreaterThan(100)
    expect(result.aborted).toBeGreaterThan(0)
  })
})
