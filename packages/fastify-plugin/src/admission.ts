import { RateLimitExceededError, type Scopes } from '@reqscope/core'
import { type Passage, type RouteRateLimits, runInContext } from '@reqscope/core/http'
import type { FastifyReply, FastifyRequest, preHandlerHookHandler } from 'fastify'
import { lifeOf, type RequestLife } from './request-life.ts'
import type { RoutePolicy } from './route-config.ts'

type Done = (error?: Error) => void
type Stage = 'onRequest' | 'preHandler'

/** Lets requests in or refuses them, before their body is parsed and before they touch a connection. */
export class Admission {
  readonly #scopes: Scopes
  readonly #defaultLimits: RouteRateLimits<FastifyRequest> | undefined

  constructor(scopes: Scopes, defaultLimits: RouteRateLimits<FastifyRequest> | undefined) {
    this.#scopes = scopes
    this.#defaultLimits = defaultLimits
  }

  /** Goes on, in the request's scope, with what is behind the `onRequest` hook; or with an error. */
  enter(policy: RoutePolicy, life: RequestLife, request: FastifyRequest, reply: FastifyReply, done: Done): void {
    const limits = policy.rateLimits ?? this.#defaultLimits
    if (limits === undefined || limits === false || !limits.has('onRequest')) runInContext(life.scope, done)
    else this.#limit(limits, 'onRequest', life, request, reply, done)
  }

  /** The hook for what is decided after all others. */
  beforeHandler(policy: RoutePolicy): preHandlerHookHandler | undefined {
    const limits = policy.rateLimits ?? this.#defaultLimits
    if (limits === undefined || limits === false || !limits.has('preHandler')) return undefined
    const admission = this
    return function limitBeforeHandler(request, reply, done) {
      const life = lifeOf(request)
      if (life === undefined) done()
      else admission.#limit(limits, 'preHandler', life, request, reply, done)
    }
  }

  #limit(
    limits: RouteRateLimits<FastifyRequest>,
    stage: Stage,
    life: RequestLife,
    request: FastifyRequest,
    reply: FastifyReply,
    done: Done,
  ): void {
    const pass = (passage: Passage) => {
      life.passage = passage
      limits.writeHeaders(passage.states, (name, value) => reply.header(name, value))
      runInContext(life.scope, done)
    }
    const refuse = (error: unknown) => {
      if (error instanceof RateLimitExceededError) {
        limits.writeHeaders(error.states, (name, value) => reply.header(name, value))
      }
      refuseUpgrade(request, reply)
      runInContext(life.scope, () => done(error as Error))
    }
    let checked: Passage | Promise<Passage>
    try {
      checked = limits.check(this.#scopes.rateLimiter, stage, request, life.passage)
    } catch (error) {
      refuse(error)
      return
    }
    if ('then' in checked) checked.then(pass, refuse)
    else pass(checked)
  }
}

// The socket of an upgrade has no parser any more that would notice its end, and @fastify/websocket only destroys those that
// came as far as its own hook.
function refuseUpgrade(request: FastifyRequest, reply: FastifyReply): void {
  if (request.raw.headers.upgrade === undefined) return
  reply.header('connection', 'close')
  reply.raw.once('finish', () => request.raw.socket.destroySoon())
}
