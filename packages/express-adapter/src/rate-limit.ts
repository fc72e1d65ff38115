import { InvalidOptionError } from '@reqscope/core'
import { meetRateLimits, type RouteRateLimitOptions, RouteRateLimits } from '@reqscope/core/http'
import type { Request, RequestHandler } from 'express'
import { needsScope } from './order.ts'
import { placeOf } from './places.ts'
import { requireLife } from './request-life.ts'
import type { AnyRequestHandler } from './types.ts'

/** One limit. It is decided where `rateLimit()` stands: after what its `key` needs, and before the body parser where that is nothing. */
export type RateLimitOptions = Omit<RouteRateLimitOptions<Request>, 'stage'>

const addressOf = (request: Request): string => request.ip ?? ''

/**
 * How many requests one client may make in how much time: one limit, or several that are decided together. What is refused
 * gets a 429 and consumes nothing.
 *
 * Each call counts for itself, wherever it is used; `group` counts several together.
 *
 * @throws InvalidOptionError naming the option that is wrong.
 */
export function rateLimit(config: RateLimitOptions | readonly RateLimitOptions[]): AnyRequestHandler {
  refuseStage(config)
  const limitsAt = (place: string) => new RouteRateLimits<Request>(config, 'rateLimit', place, addressOf)
  limitsAt('') // tells what is wrong now
  const isGrouped = [config].flat().every(({ group }) => group !== undefined)
  let limits: RouteRateLimits<Request> | undefined

  const rateLimit: RequestHandler = function rateLimit(request, _response, next) {
    const life = requireLife(request, 'rateLimit()')
    limits ??= limitsAt(isGrouped ? '' : placeOf(rateLimit, request))
    meetRateLimits(limits, 'onRequest', life.scopes.rateLimiter, request, life, next)
  }
  return needsScope(rateLimit, 'rateLimit()') as AnyRequestHandler
}

function refuseStage(config: unknown): void {
  for (const each of [config].flat()) {
    const { stage } = (each ?? {}) as { stage?: unknown }
    if (stage === undefined) continue
    throw new InvalidOptionError('rateLimit.stage', stage, 'left out: it is decided where rateLimit() stands')
  }
}
