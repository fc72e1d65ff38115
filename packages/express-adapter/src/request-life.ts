import { NoActiveScopeError, RegistrationError, type Scopes } from '@reqscope/core'
import {
  DirectResponse,
  lifetimeOf,
  type RawResponse,
  type RouteGates,
  retryAfterSeconds,
  typedErrorOf,
} from '@reqscope/core/http'
import type { Request } from 'express'

/** What is known of a request's life. */
export class RequestLife extends DirectResponse {
  readonly scopes: Scopes
  /** Of the application that has opened it. */
  readonly gates: RouteGates
  /** What Express has put at `req.route`. */
  route: unknown

  constructor(response: RawResponse, scopes: Scopes, gates: RouteGates, open: Parameters<Scopes['open']>[0]) {
    super(scopes.open(open), response, scopes.settleTimeoutMs)
    this.scopes = scopes
    this.gates = gates
    this.route = undefined
  }

  // For error handlers of the application's own, which see it before reqscopeErrors() does.
  override turnedAway(reason: unknown): void {
    const typed = typedErrorOf(reason)
    const retryAfter = typed && retryAfterSeconds(typed)
    if (retryAfter !== undefined) this.setHeader('retry-after', String(retryAfter))
  }
}

/** The life of a request; undefined where `reqscope()` has not seen it. */
export function lifeOf(request: Request): RequestLife | undefined {
  return lifetimeOf(request.res) as RequestLife | undefined
}

/** @throws RegistrationError naming what stands in the wrong place. */
export function requireLife(request: Request, what: string): RequestLife {
  const found = lifeOf(request)
  if (found !== undefined) return found
  throw new RegistrationError(
    `${what} was reached by ${request.method} ${request.baseUrl}${request.path} without a scope. ` +
      `Put app.use(reqscope({ scopes })) before it.`,
  )
}

/** `request.scope`. */
export function scopeOf(request: Request): unknown {
  const found = lifeOf(request)
  if (found !== undefined) return found.scope
  throw new NoActiveScopeError({
    needed: 'req.scope',
    remedy: 'Put app.use(reqscope({ scopes })) before whatever handles this request.',
  })
}
