import { createScopes } from '@reqscope/core'
import { redis } from '@reqscope/core/redis'
import { Redis } from 'ioredis'
import { createClientPool } from 'redis'
import { work } from './work.ts'

const url = process.env.REDIS_URL ?? ''
/** Of both pools: what ours has by default. More connections make both slower. */
const POOL = 8
/** What a request asks of Redis, so that ours pays for its scopes. */
const GETS_PER_SCOPE = 10

const scopes = createScopes({
  resources: { redis: redis({ url, exclusive: { min: POOL, max: POOL, maxWaiting: 10_000 } }) },
})
await scopes.start()
const bare = new Redis(url)
const autopipelined = new Redis(url, { enableAutoPipelining: true })
const pool = createClientPool({ url }, { minimum: POOL, maximum: POOL })
await pool.connect()
await bare.set('value', 'x'.repeat(100))

// Each of those that run at once has a key of its own: it is the round trips that are compared, not the conflicts.
await work({
  'scope get': {
    count: GETS_PER_SCOPE,
    run: () =>
      scopes.run({ name: 'get' }, async (scope) => {
        for (let index = 0; index < GETS_PER_SCOPE; index++) await scope.redis.get('value')
      }),
  },
  'autopipelined get': {
    count: GETS_PER_SCOPE,
    async run() {
      for (let index = 0; index < GETS_PER_SCOPE; index++) await autopipelined.get('value')
    },
  },
  optimistic: {
    count: 1,
    run: (worker) =>
      scopes.run({ name: 'optimistic' }, (scope) =>
        scope.redis.optimistic([`count:${worker}`], async (tx) =>
          tx.multi().set(`count:${worker}`, Number(await tx.get(`count:${worker}`)) + 1),
        ),
      ),
  },
  duplicate: {
    count: 1,
    async run(worker) {
      const client = bare.duplicate()
      try {
        await client.watch(`count:${worker}`)
        const value = Number(await client.get(`count:${worker}`))
        await client
          .multi()
          .set(`count:${worker}`, value + 1)
          .exec()
      } finally {
        client.disconnect()
      }
    },
  },
  'node-redis pool': {
    count: 1,
    run: (worker) =>
      pool.execute(async (client) => {
        // As few round trips as ours.
        const [, value] = await Promise.all([client.watch(`count:${worker}`), client.get(`count:${worker}`)])
        await client
          .multi()
          .set(`count:${worker}`, String(Number(value) + 1))
          .exec()
      }),
  },
})
