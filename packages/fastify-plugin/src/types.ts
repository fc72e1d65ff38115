import type { Register, RegisteredScope, Resources, Scopes } from '@reqscope/core'
import type { RouteRateLimitConfig, RouteTransactionOptions } from '@reqscope/core/http'
import type { PostgresOptions, postgres } from '@reqscope/core/postgres'
import type { FastifyRequest } from 'fastify'

/** The runtime's type where the plugin builds it itself, for the program's `Register`. */
export type ScopesOf<Parts extends { readonly db: Record<string, unknown> }> = Scopes<{
  readonly db: ReturnType<typeof postgres<Parts['db']>>
}>

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
}

interface CommonOptions {
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
  readonly settleTimeoutMs?: never
}

/** Without one: it is built from these, with the application's logger, and found at `app.scopes`. */
export interface ReqscopeOptionsWithParts extends CommonOptions {
  // biome-ignore lint/suspicious/noExplicitAny: of whatever schema
  readonly postgres: PostgresOptions<any>
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
