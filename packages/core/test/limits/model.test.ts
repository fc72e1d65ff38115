import { testRedis } from '@reqscope/services/testing'
import { Redis } from 'ioredis'
import { expect, it, onTestFinished } from 'vitest'
import { type Rate, rateOf } from '../../src/limits/gcra.ts'
import { LocalStore } from '../../src/limits/local-store.ts'
import { gcraArguments, gcraScript, gcraVerdicts } from '../../src/limits/redis-store.ts'
import { passes } from '../../src/limits/store.ts'
import { Script } from '../../src/redis/script.ts'
import { ReferenceLimiter, randomNumbers } from './reference.ts'

const WINDOWS = [
  { limit: 7, windowMs: 1_000, burst: 7 },
  { limit: 100, windowMs: 60_000, burst: 10 },
  { limit: 3, windowMs: 7, burst: 5 },
  { limit: 999_983, windowMs: 1_000, burst: 40 },
  { limit: 1_000, windowMs: 86_400_000, burst: 1_000 },
]
const REQUESTS = 100_000

/** Random requests over several windows at once, with costs, at a time that runs, stands and jumps. */
function* requests(seed: number, jump: (random: number) => number) {
  const random = randomNumbers(seed)
  const upTo = (most: number) => Math.floor(random() * most)
  let nowUs = 1_790_000_000_000_000
  for (let index = 0; index < REQUESTS; index++) {
    nowUs += random() < 0.3 ? 0 : upTo(random() < 0.01 ? 5_000_000 : 40_000)
    if (random() < 0.000_5) nowUs += jump(upTo(100_000_000))
    const windows = WINDOWS.filter(() => random() < 0.5)
    const charges = (windows.length === 0 ? WINDOWS.slice(0, 1) : windows).map((window) => ({
      ...window,
      windowUs: window.windowMs * 1_000,
      key: `${seed}:{${upTo(6)}}:${window.limit}`,
      rate: rateOf(window.limit, window.windowMs, window.burst) as Rate,
      cost: random() < 0.8 ? 1 : upTo(window.burst + 2),
      shadow: false,
    }))
    yield { nowUs, charges }
  }
}

// Its clock is monotonic, so it jumps ahead only: what has expired may be forgotten.
it('decides 100,000 random requests in memory as a plain reference does, to the microsecond', () => {
  const reference = new ReferenceLimiter()
  let nowUs = 0
  const store = new LocalStore({ nowUs: () => nowUs })
  let admitted = 0
  let different = 0
  for (const request of requests(1, (far) => far)) {
    nowUs = request.nowUs
    const ours = passes(request.charges, store.consume(request.charges))
    const theirs = reference.admits(request.charges, BigInt(nowUs))
    if (ours) admitted++
    if (ours !== theirs) different++
  }
  expect(different).toBe(0)
  expect(admitted).toBeGreaterThan(REQUESTS / 10)
  expect(admitted).toBeLessThan((REQUESTS * 9) / 10)
})

it('decides 100,000 random requests in Redis as a plain reference does, also when the clock is set back', async () => {
  // The very script, with the time of the test in place of the server's; nothing expires but by that time.
  const source = gcraScript.source
    .replace("local time = redis.call('TIME')\n", '')
    .replace('local now = time[1] * 1000000 + time[2]', 'local now = tonumber(table.remove(ARGV))')
    .replace('math.floor(whole / 1000) + 1', '600000')
  expect(source).not.toContain('TIME')
  expect(source).toContain("'PX', string.format('%.0f', 600000)")
  const script = new Script(source)
  const client = new Redis(await testRedis())
  onTestFinished(() => client.disconnect())
  await client.script('LOAD', source)
  const reference = new ReferenceLimiter()
  let different = 0
  let admitted = 0
  let batch: Promise<void>[] = []
  for (const { nowUs, charges } of requests(2, (far) => (far % 2 === 0 ? far : -far))) {
    const theirs = reference.admits(charges, BigInt(nowUs))
    if (theirs) admitted++
    const keys = charges.map(({ key }) => `model:${process.pid}:${key}`)
    batch.push(
      script.run(client, keys, [...gcraArguments(charges), nowUs]).then((reply) => {
        const ours = passes(charges, gcraVerdicts(reply as number[]))
        if (ours !== theirs) different++
      }),
    )
    if (batch.length < 2_000) continue
    await Promise.all(batch)
    batch = []
  }
  await Promise.all(batch)
  expect(different).toBe(0)
  expect(admitted).toBeGreaterThan(REQUESTS / 10)
}, 60_000)
