import type { RegisteredScope, Scopes } from '@reqscope/core'
import type { RouteTransactionOptions } from '@reqscope/core/http'
import type { NextFunction, Request, Response } from 'express'

export type TransactionalOptions = RouteTransactionOptions

/** A middleware that leaves it to the route's path what the parameters of its handlers are. */
// biome-ignore lint/suspicious/noExplicitAny: as Express has it
export type AnyRequestHandler = <P, ResBody, ReqBody, Query, Locals extends Record<string, any>>(
  request: Request<P, ResBody, ReqBody, Query, Locals>,
  response: Response<ResBody, Locals>,
  next: NextFunction,
) => void

/** What a request's scope is like, for all requests or for those of a route. */
export interface ScopeOptions {
  /** How long the request may take, in milliseconds; then what runs is cancelled and the client gets a 504. */
  readonly timeoutMs?: number
  /**
   * What a client that hangs up does: `'cancel'` cancels what runs, `'finish'` lets the handler finish its work.
   * Default `'cancel'` for GET and HEAD, `'finish'` otherwise.
   */
  readonly onAbort?: 'cancel' | 'finish'
}

export interface ReqscopeOptions extends ScopeOptions {
  /** The runtime, from `createScopes`. */
  // biome-ignore lint/suspicious/noExplicitAny: a runtime with whatever resources
  readonly scopes: Scopes<any>
}

declare global {
  namespace Express {
    interface Request {
      /**
       * The request's scope.
       *
       * @throws NoActiveScopeError where `reqscope()` has not seen the request.
       */
      readonly scope: RegisteredScope
    }
  }
}
