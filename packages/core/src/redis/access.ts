import type { ClientOptions } from './options.ts'
import type { Script } from './script.ts'

/** A connection that only listens. */
export interface Subscriber {
  subscribe(...channels: string[]): Promise<unknown>
  unsubscribe(...channels: string[]): Promise<unknown>
  on(event: 'message', listener: (channel: string, message: string) => void): unknown
  /** It is connected, for the first time or again: what was said meanwhile went unheard. */
  on(event: 'ready', listener: () => void): unknown
  disconnect(): void
}

/** What locks and limits use of a Redis resource: nothing of it belongs to a scope. */
export interface RedisAccess {
  /** Where it is a cluster, the keys of one script have to share a slot. */
  readonly isCluster: boolean
  /**
   * Runs a script on the shared connection.
   *
   * @param options.timeoutMs how long an answer may take; the resource's `commandTimeoutMs` by default.
   * @throws ConnectionLostError where Redis can't be reached or does not answer in time.
   */
  run(
    script: Script,
    keys: readonly string[],
    args: readonly (string | number)[],
    options?: { readonly timeoutMs?: number },
  ): Promise<unknown>
  /** Opens a connection that subscribes again by itself when it was lost. It is the caller's, closed with the resource at the latest. */
  subscriber(): Subscriber
}

/** Where a Redis resource keeps its {@link RedisAccess}. */
export const redisAccess: unique symbol = Symbol.for('reqscope.redis-access') as never

/** Undefined for a resource that is not Redis. */
export function redisAccessOf(resource: unknown): RedisAccess | undefined {
  return (resource as { readonly [redisAccess]?: RedisAccess } | null | undefined)?.[redisAccess]
}

/** Where a Redis resource keeps ioredis's settings of its connection, for a client of one's own on the same server. */
export const redisSettings: unique symbol = Symbol.for('reqscope.redis-settings') as never

/** Whether a resource is Redis, and how its server is reached, if that is one. */
export interface RedisSettings {
  /** Undefined where it is a cluster. */
  readonly [redisSettings]: ClientOptions | undefined
}

export function hasRedisSettings(resource: unknown): resource is RedisSettings {
  return typeof resource === 'object' && resource !== null && redisSettings in resource
}
