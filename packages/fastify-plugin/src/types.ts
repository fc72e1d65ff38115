import type { Register, RegisteredScope, Resources, Scopes } from '@reqscope/core'
import type {
  AdaptiveOptions,
  ConcurrencyOptions,
  HealthEndpointOptions,
  Priority,
  RouteRateLimitConfig,
  RouteTransactionOptions,
} from '@reqscope/core/http'
import type { PostgresOptions, postgres } from '@reqscope/core/postgres'
import type { redis } from '@reqscope/core/redis'
import type { FastifyRequest } from 'fastify'
import type { RedisPartOptions } from './redis-part.ts'

/** What the plugin builds a runtime from: the drizzle schema of `postgres`, and whether there is `redis`. */
interface Parts {
  readonly db?: Record<string, unknown>
  readonly redis?: true
}

/** The runtime's type where the plugin builds it itself, for the program's `Register`. */
export type ScopesOf<P extends Parts> = Scopes<{
  readonly [Name in keyof P]: Name extends 'db' ? ReturnType<typeof postgres<NonNullable<P['db']>>> : RedisResource
}>

type RedisResource = ReturnType<typeof redis>

/** The type of the program's runtime, as its `Register` says. */
export type RegisteredScopes = Register extends { scopes: infer Registered extends Scopes<never> }
  ? Registered
  : Scopes<Resources>

/** What a route says about its scope, under `config.scope`; `false` opts it out. */
export interface RouteScopeConfig {
  /**
   * Runs the handler in a transaction that is committed before the response's head is written. Rolled back when the
   * handler throws, or the status is 400 or above.
   */
  readonly transaction?: boolean | RouteTransactionOptions
  /** How long the request may take, in milliseconds; then what runs is cancelled and the client gets a 504. */
  readonly timeoutMs?: number
  /**
   * What a client that hangs up does: `'cancel'` cancels what runs, `'finish'` lets the handler finish its work.
   * Default `'cancel'` for GET and HEAD, `'finish'` otherwise.
   */
  readonly onAbort?: 'cancel' | 'finish'
  /**
   * How many requests one client may make in how much time: one limit, or several that are decided together. A refused
   * request gets a 429 and consumes nothing. Replaces the plugin's `rateLimit`; `false` is none.
   */
  readonly rateLimit?: false | RouteRateLimitConfig<FastifyRequest>
  /** How many requests of the route, or of its group, may be under way at once; the others wait their turn or get a 503. */
  readonly concurrency?: ConcurrencyOptions
  /** Whose requests are let in first, and refused last, by `concurrency` and `adaptive`. Default `'normal'`. */
  readonly priority?: Priority
}

interface CommonOptions {
  /** Answers `/health/live` and `/health/ready`: outside of every scope, limit and hook of a route. Default false. */
  readonly health?: boolean | HealthEndpointOptions
  /**
   * Limits how many requests are under way at once by how long answers take, against how long they usually take; what has
   * a `priority` of its own is let in sooner or later. Default false.
   */
  readonly adaptive?: boolean | AdaptiveOptions
  /** The limits of what has none of its own, 404s included; it all counts together. */
  readonly rateLimit?: RouteRateLimitConfig<FastifyRequest>
  /** How long `app.close()` may take to drain and close, in milliseconds. Default 10,000. */
  readonly closeTimeoutMs?: number
}

/** With a runtime of the program's own. */
export interface ReqscopeOptionsWithScopes extends CommonOptions {
  // biome-ignore lint/suspicious/noExplicitAny: a runtime with whatever resources
  readonly scopes: Scopes<any>
  readonly postgres?: never
  readonly redis?: never
  readonly settleTimeoutMs?: never
}

/** Without one: it is built from these, with the application's logger, and found at `app.scopes`. */
export interface ReqscopeOptionsWithParts extends CommonOptions {
  /** Its scopes have a `db`. */
  // biome-ignore lint/suspicious/noExplicitAny: of whatever schema
  readonly postgres?: PostgresOptions<any>
  /**
   * Its scopes have a `redis`: on `app.redis`, or its `namespace`, where @fastify/redis is registered, else on a connection
   * that becomes `app.redis`.
   */
  readonly redis?: RedisPartOptions
  readonly scopes?: never
  /** How long a handler may take to settle after its response was closed, in milliseconds. Default 10,000. */
  readonly settleTimeoutMs?: number
}

export type ReqscopeOptions = ReqscopeOptionsWithScopes | ReqscopeOptionsWithParts

declare module 'fastify' {
  interface FastifyRequest {
    /**
     * The request's scope.
     *
     * @throws NoActiveScopeError in a route with `config: { scope: false }`.
     */
    readonly scope: RegisteredScope
  }
  interface FastifyInstance {
    /** The runtime. */
    readonly scopes: RegisteredScopes
  }
  interface FastifyContextConfig {
    scope?: false | RouteScopeConfig
  }
}
