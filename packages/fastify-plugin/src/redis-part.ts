import { InvalidOptionError } from '@reqscope/core'
import type { RedisOptions, redis } from '@reqscope/core/redis'
import type { FastifyInstance } from 'fastify'

type Client = NonNullable<RedisOptions['client']>

/** The `redis` option of the plugin; `true` where `app.redis` is there and the defaults will do. */
export type RedisPartOptions =
  | true
  | (Omit<RedisOptions, 'client'> & {
      /** The namespace of @fastify/redis whose client is meant. */
      readonly namespace?: string
    })

/** Redis in the form without a runtime of the program's own. */
export interface RedisPart {
  readonly resource: ReturnType<typeof redis>
  /** Called once the runtime has started. */
  started(): Promise<void>
}

// What says where Redis is, and how to connect: `app.redis` has done that.
const OF_THE_CLIENT = ['url', 'cluster', 'sentinels', 'connection', 'clusterOptions'] as const

/**
 * Uses `app.redis` where @fastify/redis is registered, with timers of our own and without ever closing it. Else makes the
 * connection, and registers @fastify/redis with it: `app.redis` is the connection that all scopes share.
 */
export async function redisPart(app: FastifyInstance, option: RedisPartOptions): Promise<RedisPart> {
  if (option !== true && (typeof option !== 'object' || option === null || Array.isArray(option))) {
    throw new InvalidOptionError('reqscope.redis', option, 'true, or an object of options')
  }
  const { namespace, ...options } = option === true ? ({} as { namespace?: string } & RedisOptions) : option
  if (namespace !== undefined && (typeof namespace !== 'string' || namespace === '')) {
    throw new InvalidOptionError('reqscope.redis.namespace', namespace, 'a string that is not empty')
  }
  // Loaded only here: a program without Redis need not have the libraries behind it.
  const { redis, sharedClientOf } = await import('@reqscope/core/redis')
  const client = registered(app, namespace)
  if (client === undefined) {
    const resource = redis(options)
    return {
      resource,
      async started() {
        const { default: fastifyRedis } = await import('@fastify/redis')
        await app.register(fastifyRedis, {
          client: sharedClientOf(resource) as Client,
          ...(namespace !== undefined && { namespace }),
        })
      },
    }
  }
  for (const name of OF_THE_CLIENT) {
    if (options[name] === undefined) continue
    throw new InvalidOptionError(
      `reqscope.redis.${name}`,
      Symbol('not shown'),
      'left out: @fastify/redis is registered, and its client is used',
    )
  }
  return { resource: redis({ ...options, client }), started: async () => {} }
}

function registered(app: FastifyInstance, namespace: string | undefined): Client | undefined {
  if (!app.hasDecorator('redis')) return undefined
  const { redis } = app as unknown as { redis: Client & Readonly<Record<string, Client>> }
  const isClient = typeof redis.sendCommand === 'function'
  if (namespace === undefined) {
    if (isClient) return redis
    const names = Object.keys(redis).map((name) => `'${name}'`)
    throw new InvalidOptionError('reqscope.redis.namespace', undefined, `one of ${names.join(', ')}`)
  }
  if (isClient) {
    throw new InvalidOptionError('reqscope.redis.namespace', namespace, 'left out: app.redis has no namespaces')
  }
  return redis[namespace]
}
