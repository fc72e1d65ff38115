import { Redis } from 'ioredis'
import { ask } from '../src/http.ts'
import type { Incident, Point } from '../src/incident.ts'

const ROUNDS = 20
const REQUESTS_A_ROUND = 30
// As a server would have it that is meant for some dozens of applications.
const MAX_CLIENTS = 300

/** A dashboard asks for a value that is there, is missing, or is not JSON. */
export const clientsNeverClosed: Incident = {
  number: 1,
  title: 'A Redis client per call, never closed',
  folder: new URL('.', import.meta.url),
  axes: { x: 'requests', y: 'connections to Redis' },

  async replay([app], { redisUrl }) {
    if (app === undefined) throw new Error('there is no application')
    const redis = new Redis(redisUrl, { connectionName: 'observer' })
    const maxBefore = (await redis.config('GET', 'maxclients')) as string[]
    await redis.config('SET', 'maxclients', MAX_CLIENTS)
    const connections = async () => Number(/connected_clients:(\d+)/.exec(await redis.info('clients'))?.[1])
    try {
      await ask(`${app.url}/market`)
      const memoryBefore = await app.memoryMiB()
      const curve: Point[] = [[0, await connections()]]
      let answered = 0
      for (let round = 1; round <= ROUNDS; round++) {
        if (round % 3 === 0) await redis.set('latest_market_data', '{"gold":')
        else if (round % 3 === 1) await redis.set('latest_market_data', '{"gold":2412}')
        else await redis.del('latest_market_data')
        const answers = await Promise.all(
          Array.from({ length: REQUESTS_A_ROUND }, () => ask(`${app.url}/market`, { patienceMs: 1_000 })),
        )
        answered += answers.filter(({ status }) => status === 200).length
        curve.push([round * REQUESTS_A_ROUND, await connections()])
      }
      return {
        figures: [
          { what: 'requests', value: ROUNDS * REQUESTS_A_ROUND },
          { what: 'answered within a second', value: answered },
          { what: 'connections to Redis before', value: curve[0]?.[1] ?? Number.NaN },
          { what: 'connections to Redis after', value: curve.at(-1)?.[1] ?? Number.NaN },
          { what: 'memory gained, MiB', value: (await app.memoryMiB()) - memoryBefore },
        ],
        curve,
      }
    } finally {
      await redis.del('latest_market_data')
      await redis.config('SET', 'maxclients', maxBefore[1] ?? '10000')
      redis.disconnect()
    }
  },

  claims: (before, after) => [
    {
      claim: 'before, every call that found no proper value left its connection behind, until Redis took no more',
      holds: before('connections to Redis after') > 200 && before('answered within a second') < before('requests'),
    },
    {
      claim: 'after, every call was answered over the connections that were there',
      holds:
        after('answered within a second') === after('requests') &&
        after('connections to Redis after') <= after('connections to Redis before'),
    },
  ],
}
