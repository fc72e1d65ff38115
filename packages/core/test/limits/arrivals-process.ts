import { type Rate, rateOf } from '../../src/limits/gcra.ts'
import { gcraScript, RedisStore } from '../../src/limits/redis-store.ts'
import { Script } from '../../src/redis/script.ts'
import { CountedRedis } from './counted-redis.ts'

// One of several processes at one limit: `requests` as fast as they come, `at once` of them under way; prints what it was told.
const [url = '', key = '', limit = '', windowMs = '', requests = '', atOnce = ''] = process.argv.slice(2)
const redis = new CountedRedis({ url })
const close = await redis.open()
const rate = rateOf(Number(limit), Number(windowMs), Number(limit)) as Rate
const decisions: { atUs: number; admitted: boolean }[] = []
// The very script, which says when it decided besides: the store has no use for that.
const timed = new Script(gcraScript.source.replace(/return reply\s*$/, 'reply[#reply + 1] = now\nreturn reply\n'))
redis.onRun = () => timed
const { access } = redis
const timedStore = new RedisStore({
  ...access,
  run: async (...args) => {
    const reply = (await access.run(...args)) as number[]
    decisions.push({ atUs: reply[1] as number, admitted: (reply[0] as number) >= 0 })
    return reply
  },
})
let left = Number(requests)
await Promise.all(
  Array.from({ length: Number(atOnce) }, async () => {
    while (left-- > 0) await timedStore.consume([{ key, rate, cost: 1, shadow: false }], 5_000)
  }),
)
await close()
process.stdout.write(JSON.stringify(decisions))
