import { Redis } from 'ioredis'
import { ConnectionLostError } from '../../src/errors.ts'
import { defineResource, type Resource } from '../../src/index.ts'
import { type RedisAccess, redisAccess } from '../../src/redis/access.ts'

/** What limits use of Redis, on a client of the test's own. `calls` counts the round trips. */
export class TestRedis implements RedisAccess {
  readonly isCluster: boolean
  readonly client: Redis
  calls = 0

  constructor(url: string, options: { isCluster?: boolean } = {}) {
    this.isCluster = options.isCluster ?? false
    this.client = new Redis(url, { enableOfflineQueue: false, maxRetriesPerRequest: 0, lazyConnect: true })
    this.client.on('error', () => {})
  }

  async run(
    script: Parameters<RedisAccess['run']>[0],
    keys: readonly string[],
    args: readonly (string | number)[],
    options: { readonly timeoutMs?: number } = {},
  ): Promise<unknown> {
    this.calls++
    let timer: NodeJS.Timeout | undefined
    const timeout = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(lost('timeout')), options.timeoutMs ?? 1_000)
    })
    try {
      return await Promise.race([script.run(this.client, keys, args), timeout])
    } catch (cause) {
      throw cause instanceof ConnectionLostError ? cause : lost('lost', cause)
    } finally {
      clearTimeout(timer)
    }
  }

  subscriber(): never {
    throw new Error('limits subscribe to nothing')
  }
}

const lost = (reason: 'timeout' | 'lost', cause?: unknown) =>
  new ConnectionLostError({ resource: 'redis', reason, message: `Redis: ${reason}`, cause })

/** A resource around it, as `redis(…)` is one. */
export function redisResource(redis: TestRedis): Resource<object> {
  const resource = defineResource({
    handle: () => ({}),
    start: async () => {
      await redis.client.connect()
    },
    stop: () => redis.client.disconnect(),
  })
  return Object.assign(resource, { [redisAccess]: redis })
}
