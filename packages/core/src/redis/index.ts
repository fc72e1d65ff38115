import type { Cluster, Redis, RedisKey, RedisValue } from 'ioredis'
import { InvalidOptionError } from '../errors.ts'
import type { Ledger } from '../scope/ledger.ts'
import type { Logger } from '../scope/logger.ts'
import type { Resource, ResourceHealth } from '../scope/resource.ts'
import type { Scope } from '../scope/scope.ts'
import { type RedisAccess, type RedisSettings, redisAccess, redisSettings } from './access.ts'
import { Connections } from './connections.ts'
import type { ExclusiveConnection } from './exclusive-connection.ts'
import type { OptimisticOptions } from './optimistic.ts'
import type { Abandoned, OptimisticTransaction } from './optimistic-transaction.ts'
import {
  type ClientOptions,
  checkRedisOptions,
  type ExclusiveOptions,
  type RedisConfig,
  type RedisOptions,
  type ScriptDefinitions,
} from './options.ts'
import { addScript, ScopedRedis } from './scoped-redis.ts'
import { RedisSession } from './session.ts'

export type {
  Abandoned,
  ExclusiveConnection,
  ExclusiveOptions,
  OptimisticOptions,
  OptimisticTransaction,
  RedisOptions,
  ScopedRedis,
  ScriptDefinitions,
}

/** What `scope.redis` is, with a method for each script of the resource. */
export type BoundRedis<Scripts extends ScriptDefinitions = Record<never, never>> = ScopedRedis & {
  readonly [Name in keyof Scripts]: (...args: (RedisKey | RedisValue)[]) => Promise<unknown>
}

/**
 * Redis, through ioredis: `scope.redis` has ioredis' commands on a connection that all scopes share, less those that
 * would change it; `scope.redis.exclusive(fn)` and `scope.redis.optimistic(keys, fn)` lease one of their own.
 *
 * @throws InvalidOptionError naming the option that is wrong.
 */
export function redis<const Scripts extends ScriptDefinitions = Record<never, never>>(
  options: RedisOptions<Scripts>,
): Resource<BoundRedis<Scripts>> {
  return new RedisResource(checkRedisOptions(options)) as unknown as Resource<BoundRedis<Scripts>>
}

/**
 * The client behind a resource, for whatever is to share its connection outside of scopes: a framework's plugin, a metric.
 * What changes the connection is for nobody.
 *
 * @throws InvalidOptionError for anything that is not a `redis(…)` of a runtime.
 */
export function sharedClientOf(resource: unknown): Redis | Cluster {
  if (!(resource instanceof RedisResource)) throw new InvalidOptionError('sharedClientOf', resource, 'a redis(…)')
  return RedisResource.clientOf(resource)
}

class RedisResource implements Resource<ScopedRedis>, RedisSettings {
  readonly #config: RedisConfig
  #connections: Connections | undefined
  #Handle = ScopedRedis

  constructor(config: RedisConfig) {
    this.#config = config
  }

  attach(runtime: { readonly name: string; readonly ledger: Ledger; readonly logger: () => Logger }): void {
    if (this.#connections !== undefined) {
      throw new InvalidOptionError(
        `createScopes.resources.${runtime.name}`,
        this,
        'a redis(…) of its own: this one belongs to another runtime',
      )
    }
    this.#connections = new Connections(runtime.name, this.#config, runtime)
    this.#Handle = class extends ScopedRedis {}
    for (const name of this.#connections.scripts.keys()) addScript(this.#Handle.prototype, name)
  }

  start(): Promise<void> {
    return this.#attached.start()
  }

  stop(context: { readonly timeoutMs: number }): Promise<void> {
    return this.#attached.stop(context.timeoutMs)
  }

  handle(scope: Scope): ScopedRedis {
    return new this.#Handle(new RedisSession(scope, this.#attached))
  }

  release(handle: ScopedRedis): Promise<void> | undefined {
    return ScopedRedis.sessionOf(handle).release()
  }

  summary(handle: ScopedRedis): object {
    return ScopedRedis.sessionOf(handle).summary
  }

  cancel(handle: ScopedRedis, _scope: Scope, reason: Error): void {
    ScopedRedis.sessionOf(handle).cancel(reason as never)
  }

  async health(): Promise<ResourceHealth> {
    const { shared, pools, circuit } = this.#attached
    const exclusive = pools.map((pool) => pool.counts)
    try {
      await shared.send('ping', [])
    } catch (error) {
      return { status: 'down', circuit: circuit.state, exclusive, error: (error as Error).message }
    }
    return {
      status: exclusive.some(({ waiting }) => waiting > 0) ? 'degraded' : 'up',
      circuit: circuit.state,
      exclusive,
    }
  }

  get [redisAccess](): RedisAccess {
    const connections = this.#attached
    return {
      isCluster: connections.isCluster,
      run: (script, keys, args, options) => connections.shared.run(script, keys, args, options?.timeoutMs),
      subscriber: () => connections.subscriber(),
    }
  }

  get [redisSettings](): ClientOptions | undefined {
    const { isCluster, shared } = this.#attached
    return isCluster ? undefined : (shared.client as Redis).options
  }

  static clientOf(resource: RedisResource): Redis | Cluster {
    return resource.#attached.shared.client
  }

  get #attached(): Connections {
    if (this.#connections === undefined)
      throw new InvalidOptionError('redis', this, 'given to createScopes before it is used')
    return this.#connections
  }
}
