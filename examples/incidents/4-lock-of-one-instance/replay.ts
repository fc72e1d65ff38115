import { Redis } from 'ioredis'
import { ask } from '../src/http.ts'
import type { Incident, Point } from '../src/incident.ts'

const SESSIONS = 10
const AT_ONCE = 40
const POINTS = 20

/** Several instances append to the same chats. */
export const lockOfOneInstance = (messages: number): Incident => ({
  number: 4,
  title: 'A lock that only one instance sees',
  folder: new URL('.', import.meta.url),
  axes: { x: 'messages sent', y: 'messages lost' },
  instances: 4,

  async replay(apps, { redisUrl }) {
    const redis = new Redis(redisUrl)
    const keys = Array.from({ length: SESSIONS }, (_, session) => `chat:session:${session}`)
    const stored = async () => {
      const sessions = await redis.mget(keys)
      return sessions.reduce((sum, session) => sum + (JSON.parse(session ?? '{"messages":[]}').messages.length ?? 0), 0)
    }
    await redis.del(keys)
    const curve: Point[] = [[0, 0]]
    let sent = 0
    let acknowledged = 0
    const client = async (until: number) => {
      while (sent < until) {
        const message = sent++
        const app = apps[message % apps.length]
        const { status } = await ask(`${app?.url}/chats/${Math.floor(message / apps.length) % SESSIONS}`, {
          method: 'POST',
          body: { message: `message ${message}` },
          patienceMs: 30_000,
        })
        if (status === 200) acknowledged++
      }
    }
    for (let point = 1; point <= POINTS; point++) {
      const until = (messages * point) / POINTS
      await Promise.all(Array.from({ length: AT_ONCE }, () => client(until)))
      curve.push([until, acknowledged - (await stored())])
    }
    const lost = acknowledged - (await stored())
    await redis.del(keys)
    redis.disconnect()
    return {
      figures: [
        { what: 'instances', value: apps.length },
        { what: 'messages sent', value: sent },
        { what: 'messages answered with 200', value: acknowledged },
        { what: 'of which lost', value: lost },
      ],
      curve,
    }
  },

  claims: (before, after) => [
    { claim: 'before, messages were lost that had been answered with 200', holds: before('of which lost') > 0 },
    {
      claim: 'after, none was',
      holds: after('of which lost') === 0 && after('messages answered with 200') === after('messages sent'),
    },
  ],
})
