import { execFile } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { testRedis } from '@reqscope/services/testing'
import { expect, it } from 'vitest'
import { ReferenceLimiter } from './reference.ts'

const program = fileURLToPath(new URL('./arrivals-process.ts', import.meta.url))
const PROCESSES = 4
const LIMIT = 300
const WINDOW_MS = 1_000

it('admits of several processes together what one limiter admits that is fed the same arrivals', async () => {
  const url = await testRedis()
  const key = `{processes-${randomUUID()}}`
  const args = ['--import', 'tsx', program, url, key, String(LIMIT), String(WINDOW_MS), '1500', '8']
  const run = promisify(execFile)
  const outputs = await Promise.all(Array.from({ length: PROCESSES }, () => run(process.execPath, args)))
  const decisions = outputs
    .flatMap(({ stdout }) => JSON.parse(stdout) as { atUs: number; admitted: boolean }[])
    .sort((a, b) => a.atUs - b.atUs)
  expect(decisions).toHaveLength(PROCESSES * 1_500)
  const reference = new ReferenceLimiter()
  const charge = [{ key, limit: LIMIT, windowUs: WINDOW_MS * 1_000, burst: LIMIT, cost: 1 }]
  const admitted = decisions.filter((each) => each.admitted).length
  const expected = decisions.filter(({ atUs }) => reference.admits(charge, BigInt(atUs))).length
  expect(Math.abs(admitted - expected)).toBeLessThanOrEqual(PROCESSES)
  expect(admitted).toBeGreaterThanOrEqual(LIMIT)
  expect(admitted).toBeLessThan(decisions.length)
}, 60_000)
