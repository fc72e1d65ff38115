import { randomUUID } from 'node:crypto'
import { testRedis } from '@reqscope/services/testing'
import { type Cluster, Redis } from 'ioredis'
import { onTestFinished } from 'vitest'
import { createScopes, type Resource, type Scopes } from '../../src/index.ts'
import { type RedisAccess, redisAccess, type Subscriber } from '../../src/redis/access.ts'
import { type BoundRedis, type RedisOptions, redis as redisResource, sharedClientOf } from '../../src/redis/index.ts'
import { type LogLine, memoryLogger } from '../memory-logger.ts'

export { failureOf, Gate } from '../gate.ts'

/** The resource as users have it, with an eye on what locks use of it. */
export type TestRedis = Resource<BoundRedis> & {
  readonly [redisAccess]: RedisAccess
  readonly client: Redis | Cluster
  /** The connections that listen, as they were opened. */
  readonly subscribers: readonly Redis[]
}

export function testRedisResource(options: RedisOptions): TestRedis {
  const resource = redisResource(options)
  const subscribers: Redis[] = []
  let access: RedisAccess | undefined
  const { get } = Object.getOwnPropertyDescriptor(Object.getPrototypeOf(resource), redisAccess) as {
    get(): RedisAccess
  }
  Object.defineProperties(resource, {
    [redisAccess]: {
      get() {
        if (access === undefined) {
          const real = get.call(resource)
          const subscriber = (): Subscriber => {
            const opened = real.subscriber() as unknown as Redis
            subscribers.push(opened)
            return opened as unknown as Subscriber
          }
          access = { isCluster: real.isCluster, run: real.run, subscriber }
        }
        return access
      },
    },
    client: { get: () => sharedClientOf(resource) },
    subscribers: { value: subscribers },
  })
  return resource as unknown as TestRedis
}

export type LockApp = Scopes<{ redis: TestRedis }> & { readonly logs: LogLine[]; readonly redis: TestRedis }

/** A runtime with a Redis; each one is as good as a process of its own. Closed after the test. */
export async function lockApp(options: Partial<RedisOptions> = {}): Promise<LockApp> {
  const { logger, logs } = memoryLogger()
  const isPlaced = options.url !== undefined || options.cluster !== undefined
  const redis = testRedisResource({
    commandTimeoutMs: 1_000,
    ...(isPlaced ? {} : { url: await testRedis() }),
    ...options,
  })
  const scopes = createScopes({ resources: { redis }, logger })
  await scopes.start()
  onTestFinished(() => scopes.close({ timeoutMs: 1_000 }))
  return Object.assign(scopes, { logs, redis })
}

/** A key nobody else uses. */
export function freshKey(): string {
  return `k-${randomUUID()}`
}

/** A client beside those under test, to look at what is stored. */
export async function redisObserver(url?: string): Promise<Redis> {
  const client = new Redis(url ?? (await testRedis()))
  client.on('error', () => {})
  onTestFinished(() => client.disconnect())
  return client
}

/** Waits until `condition` holds, without being told. */
export async function until(condition: () => boolean | Promise<boolean>, forMs = 5_000): Promise<void> {
  const deadline = performance.now() + forMs
  while (!(await condition())) {
    if (performance.now() > deadline) throw new Error(`it did not come to hold within ${forMs} ms: ${condition}`)
    await new Promise((resolve) => setTimeout(resolve, 2))
  }
}

/** How many wait in the queue of a key. */
export function queueLength(redis: Redis, key: string): Promise<number> {
  return redis.zcard(`reqscope:lock:{${key}}:q`)
}

/** Keeps the event loop from turning. */
export function block(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms)
}
