import { testRedis } from '@reqscope/services/testing'
import { expect, it } from 'vitest'
import { flood, limitedApp } from '../src/flood.ts'

// The long form is `npm run flood`: 5,000 requests a second for 10 seconds, after which the quiet ones' p99 is compared.
it('lets quiet clients through beside a flood from one address', async () => {
  const told = await flood(await limitedApp(await testRedis()), 500, 1)
  expect(told.sentPerSecond).toBeGreaterThan(300)
  expect(told.alone.outcomes).toMatch(/^200 × \d+$/)
  expect(told.flooded.outcomes).toMatch(/^200 × \d+$/)
  expect(told.flooded.p99Ms).toBeLessThan(2 * told.alone.p99Ms + 250)
}, 30_000)
