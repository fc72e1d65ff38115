import { type Rate, rateOf } from '../../src/limits/gcra.ts'
import { RedisStore } from '../../src/limits/redis-store.ts'
import type { Script } from '../../src/redis/script.ts'
import { TestRedis } from './redis-resource.ts'

// One of several processes at one limit: `requests` as fast as they come, `at once` of them under way; prints what it was told.
const [url = '', key = '', limit = '', windowMs = '', requests = '', atOnce = ''] = process.argv.slice(2)
const redis = new TestRedis(url)
await redis.client.connect()
const store = new RedisStore(redis)
const rate = rateOf(Number(limit), Number(windowMs), Number(limit)) as Rate
const decisions: { atUs: number; admitted: boolean }[] = []
// The reply's last item is when the store decided, which the store itself has no use for.
const run = redis.run.bind(redis)
redis.run = async (script: Script, ...rest) => {
  const reply = (await run(script, ...rest)) as number[]
  decisions.push({ atUs: reply[2] as number, admitted: reply[0] === 1 })
  return reply
}
let left = Number(requests)
await Promise.all(
  Array.from({ length: Number(atOnce) }, async () => {
    while (left-- > 0) await store.consume([{ key, rate, cost: 1, shadow: false }], 5_000)
  }),
)
redis.client.disconnect()
process.stdout.write(JSON.stringify(decisions))
