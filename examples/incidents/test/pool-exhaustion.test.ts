import { testDatabase } from '@reqscope/services/testing'
import { expect, it } from 'vitest'
import { replay, withoutReqscope, withReqscope } from '../src/pool-exhaustion.ts'

// The long form is `npm run pool-exhaustion`: 30 seconds of it.
it('keeps its capacity and its answers quick under five times its load, where it collapsed without', async () => {
  const database = await testDatabase()
  const before = await replay('without Reqscope', withoutReqscope(database.url), 6)
  const after = await replay('with Reqscope', await withReqscope(database.url), 4)
  expect(before.goodput / before.capacity).toBeLessThan(0.6)
  // The long form asks for 0.9 and for three times; here other tests run beside it.
  expect(after.goodput / after.capacity).toBeGreaterThan(0.7)
  expect(after.p99Ms).toBeLessThan(3 * after.unloadedP99Ms + 100)
}, 60_000)
