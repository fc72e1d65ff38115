import { Redis } from 'ioredis'
import { ConnectionLostError, type Resource } from '../../src/index.ts'
import { type RedisAccess, redisAccess, type Subscriber } from '../../src/redis/access.ts'
import type { Script } from '../../src/redis/script.ts'

export interface TestRedis extends Resource<{ readonly client: Redis }> {
  readonly [redisAccess]: RedisAccess
  readonly client: Redis
  /** How many subscribers were opened. */
  readonly subscribers: readonly Redis[]
}

/** A resource over a real client that offers what locks use of Redis, and no more. */
export function redisResource(url: string, options: { commandTimeoutMs?: number } = {}): TestRedis {
  const commandTimeout = options.commandTimeoutMs ?? 1_000
  const settings = { lazyConnect: true, retryStrategy: (tries: number) => Math.min(tries * 20, 200) }
  const client = new Redis(url, {
    ...settings,
    commandTimeout,
    maxRetriesPerRequest: 0,
    enableOfflineQueue: false,
    autoResendUnfulfilledCommands: false,
  })
  client.on('error', () => {})
  const subscribers: Redis[] = []
  const access: RedisAccess = {
    isCluster: false,
    async run(script: Script, keys, args) {
      try {
        return await script.run(client, keys, args)
      } catch (cause) {
        if ((cause as Error).name === 'ReplyError') throw cause
        throw new ConnectionLostError({ resource: 'redis', reason: 'lost', message: 'Redis is away.', cause })
      }
    },
    subscriber(): Subscriber {
      const subscriber = new Redis(url, { ...settings, maxRetriesPerRequest: null })
      subscriber.on('error', () => {})
      subscribers.push(subscriber)
      return subscriber as unknown as Subscriber
    },
  }
  return {
    [redisAccess]: access,
    client,
    subscribers,
    start: () => client.connect(),
    stop: () => {
      for (const subscriber of subscribers) subscriber.disconnect()
      client.disconnect()
    },
    handle: () => ({ client }),
    release: () => {},
    health: () => ({ status: 'up' }),
  }
}
