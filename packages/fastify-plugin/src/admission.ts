import { RateLimitExceededError, type Scopes } from '@reqscope/core'
import { type AdmissionGate, giveBack, type Passage, type RouteRateLimits, runInContext } from '@reqscope/core/http'
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

  /**
   * Goes on, in the request's scope, with what is behind the `onRequest` hook; or with an error. Its rate limits come first,
   * so that a flood takes nobody's place; what they took is given back if there is no place.
   */
  enter(policy: RoutePolicy, life: RequestLife, request: FastifyRequest, reply: FastifyReply, done: Done): void {
    const limits = policy.rateLimits ?? this.#defaultLimits
    if (limits === undefined || limits === false || !limits.has('onRequest')) {
      if (policy.gate === undefined) runInContext(life.scope, done)
      else this.#throughGate(policy.gate, life, request, reply, done)
      return
    }
    const { gate } = policy
    const next = gate === undefined ? done : this.#thenThroughGate(gate, life, request, reply, done)
    this.#limit(limits, 'onRequest', life, request, reply, next)
  }

  #thenThroughGate(
    gate: AdmissionGate,
    life: RequestLife,
    request: FastifyRequest,
    reply: FastifyReply,
    done: Done,
  ): Done {
    return (error) => {
      if (error === undefined) this.#throughGate(gate, life, request, reply, done)
      else done(error)
    }
  }

  #throughGate(gate: AdmissionGate, life: RequestLife, request: FastifyRequest, reply: FastifyReply, done: Done): void {
    const refuse = (error: unknown) => {
      giveBack(this.#scopes.rateLimiter, life.passage)
      refuseUpgrade(request, reply)
      runInContext(life.scope, () => done(error as Error))
    }
    let waiting: Promise<void> | undefined
    try {
      waiting = gate.enter(life.scope)
    } catch (error) {
      refuse(error)
      return
    }
    if (waiting === undefined) runInContext(life.scope, done)
    else waiting.then(() => runInContext(life.scope, done), refuse)
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
