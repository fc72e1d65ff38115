import type { Scopes } from '@reqscope/core'
import {
  enterGate,
  meetRateLimits,
  type Refusal,
  type RefusalAnswer,
  type RefusalResponder,
  type RouteRateLimits,
} from '@reqscope/core/http'
import type { FastifyRequest, preHandlerHookHandler } from 'fastify'
import { lifeOf, type RequestLife } from './request-life.ts'
import { isAnsweredBy, type RoutePolicy } from './route-config.ts'

type Done = (error?: Error) => void

/** Lets requests in or refuses them, before their body is parsed and before they touch a connection. */
export class Admission implements RefusalResponder<FastifyRequest, RequestLife> {
  readonly #scopes: Scopes
  readonly #defaultLimits: RouteRateLimits<FastifyRequest> | undefined
  readonly #errorHandler: object | undefined

  /** @param errorHandler ours, as `answerTypedErrors` returned it. */
  constructor(
    scopes: Scopes,
    defaultLimits: RouteRateLimits<FastifyRequest> | undefined,
    errorHandler: object | undefined,
  ) {
    this.#scopes = scopes
    this.#defaultLimits = defaultLimits
    this.#errorHandler = errorHandler
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
    meetRateLimits(limits, stage, this.#scopes.rateLimiter, request, life, done as (error?: unknown) => void, this)
  }

  /** Nobody of the user's would see the error where the route's error handler is ours, and so is its only `onError` hook. */
  responds(
    refusal: Refusal,
    request: FastifyRequest,
    life: RequestLife,
    answer: (refusal: Refusal) => RefusalAnswer,
  ): boolean {
    if (this.#errorHandler === undefined || !isAnsweredBy(this.#errorHandler, request)) return false
    const { violated, retryAfterMs } = refusal
    request.log.debug({ violated, retryAfterMs }, 'a rate limit refused the request')
    life.turnedAway()
    life.answer(429, answer(refusal))
    return true
  }
}
