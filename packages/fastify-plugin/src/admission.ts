import type { Scopes } from '@reqscope/core'
import { enterGate, meetRateLimits, type RouteRateLimits } from '@reqscope/core/http'
import type { FastifyRequest, preHandlerHookHandler } from 'fastify'
import { lifeOf, type RequestLife } from './request-life.ts'
import type { RoutePolicy } from './route-config.ts'

type Done = (error?: Error) => void

/** Lets requests in or refuses them, before their body is parsed and before they touch a connection. */
export class Admission {
  readonly #scopes: Scopes
  readonly #defaultLimits: RouteRateLimits<FastifyRequest> | undefined

  constructor(scopes: Scopes, defaultLimits: RouteRateLimits<FastifyRequest> | undefined) {
    this.#scopes = scopes
    this.#defaultLimits = defaultLimits
  }

  /**
   * Goes on, in the request's scope, with what is behind the `onRequest` hook; or with an error. Its rate limits come first,
   * so that a flood takes nobody's place; what they took is given back if there is no place.
   */
  enter(policy: RoutePolicy, life: RequestLife, request: FastifyRequest, done: Done): void {
    const limits = policy.rateLimits ?? this.#defaultLimits
    if (limits === undefined || limits === false || !limits.has('onRequest')) this.#throughGate(policy, life, done)
    else if (policy.gate === undefined) this.#limit(limits, 'onRequest', life, request, done)
    else
      this.#limit(limits, 'onRequest', life, request, (error) => {
        if (error === undefined) this.#throughGate(policy, life, done)
        else done(error)
      })
  }

  #throughGate({ gate }: RoutePolicy, life: RequestLife, done: Done): void {
    if (gate === undefined) life.within(done)
    else enterGate(gate, this.#scopes.rateLimiter, life, done as (error?: unknown) => void)
  }

  /** The hook for what is decided after all others. */
  beforeHandler(policy: RoutePolicy): preHandlerHookHandler | undefined {
    const limits = policy.rateLimits ?? this.#defaultLimits
    if (limits === undefined || limits === false || !limits.has('preHandler')) return undefined
    const admission = this
    return function limitBeforeHandler(request, _reply, done) {
      const life = lifeOf(request)
      if (life === undefined) done()
      else admission.#limit(limits, 'preHandler', life, request, done)
    }
  }

  #limit(
    limits: RouteRateLimits<FastifyRequest>,
    stage: 'onRequest' | 'preHandler',
    life: RequestLife,
    request: FastifyRequest,
    done: Done,
  ): void {
    meetRateLimits(limits, stage, this.#scopes.rateLimiter, request, life, done as (error?: unknown) => void)
  }
}
