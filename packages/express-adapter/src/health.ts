import { InvalidOptionError, type Scopes } from '@reqscope/core'
import { HEALTH_HEADERS, type HealthEndpointOptions, HealthEndpoints } from '@reqscope/core/http'
import type { RequestHandler, Response } from 'express'
import { healthTooLate, scopesIn, tellsHealth } from './order.ts'
import { lifeOf } from './request-life.ts'

export interface HealthOptions extends HealthEndpointOptions {
  /** The runtime to ask. Default: that of the application that uses it. */
  // biome-ignore lint/suspicious/noExplicitAny: a runtime with whatever resources
  readonly scopes?: Scopes<any>
}

/**
 * Answers `/health/live` and `/health/ready`: `app.use(health())`, before `reqscope()`, so that it has no scope and no limit.
 *
 * @throws InvalidOptionError naming the option that is wrong; with the first request where it can't find the runtime.
 */
export function health(options: HealthOptions = {}): RequestHandler {
  if (typeof options !== 'object' || options === null) throw new InvalidOptionError('health', options, 'an object')
  const { scopes: given, ...rest } = options
  if (given !== undefined && typeof (given as Partial<Scopes> | null)?.health !== 'function') {
    throw new InvalidOptionError('health.scopes', given, 'what createScopes returned')
  }
  const endpointsOf = (scopes: Scopes) => new HealthEndpoints(scopes, rest, 'health')
  endpointsOf(given as unknown as Scopes) // tells what is wrong now
  let endpoints = given === undefined ? undefined : endpointsOf(given as unknown as Scopes)

  const health: RequestHandler = function health(request, response, next) {
    if (lifeOf(request) !== undefined) throw healthTooLate()
    if (endpoints === undefined) {
      const scopes = scopesIn(request.app)
      if (scopes === undefined) {
        throw new InvalidOptionError(
          'health.scopes',
          undefined,
          'given where the application does not use reqscope() itself',
        )
      }
      endpoints = endpointsOf(scopes)
    }
    const answer = endpoints.answer(request.method, request.path)
    if (answer === undefined) next()
    else if ('then' in answer) answer.then((ready) => send(response, ready), next)
    else send(response, answer)
  }
  return tellsHealth(health)

  function send(
    response: Response,
    { statusCode, body }: { readonly statusCode: number; readonly body: string },
  ): void {
    response.status(statusCode).set(HEALTH_HEADERS).end(body)
  }
}
