import type { Scopes } from '@reqscope/core'
import {
  type AdmissionGate,
  giveBack,
  type Passage,
  Refusal,
  type RouteRateLimits,
  runInContext,
} from '@reqscope/core/http'
import type { FastifyReply, FastifyRequest, preHandlerHookHandler } from 'fastify'
import { lifeOf, type RequestLife } from './request-life.ts'
import { isAnsweredBy, type RoutePolicy } from './route-config.ts'

type Done = (error?: Error) => void
type Stage = 'onRequest' | 'preHandler'

/** Lets requests in or refuses them, before their body is parsed and before they touch a connection. */
export class Admission {
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
    let waiting: Promise<void> | undefined
    try {
      waiting = gate.enter(life.scope)
    } catch (error) {
      this.#refuseAtGate(error, life, request, reply, done)
      return
    }
    if (waiting === undefined) {
      runInContext(life.scope, done)
      return
    }
    waiting.then(
      () => runInContext(life.scope, done),
      (error: unknown) => this.#refuseAtGate(error, life, request, reply, done),
    )
  }

  #refuseAtGate(error: unknown, life: RequestLife, request: FastifyRequest, reply: FastifyReply, done: Done): void {
    giveBack(this.#scopes.rateLimiter, life.passage)
    refuseUpgrade(request, reply)
    runInContext(life.scope, () => done(error as Error))
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
    let decided: Passage | Refusal | Promise<Passage | Refusal>
    try {
      decided = limits.check(this.#scopes.rateLimiter, stage, request, life.passage)
    } catch (error) {
      fail(error, life, request, reply, done)
      return
    }
    if (!('then' in decided)) {
      this.#decided(decided, limits, life, request, reply, done)
      return
    }
    decided.then(
      (late) => this.#decided(late, limits, life, request, reply, done),
      (error: unknown) => fail(error, life, request, reply, done),
    )
  }

  #decided(
    decided: Passage | Refusal,
    limits: RouteRateLimits<FastifyRequest>,
    life: RequestLife,
    request: FastifyRequest,
    reply: FastifyReply,
    done: Done,
  ): void {
    if (!(decided instanceof Refusal)) {
      life.passage = decided
      limits.writeHeaders(decided.states, (name, value) => reply.header(name, value))
      runInContext(life.scope, done)
      return
    }
    if (this.#errorHandler !== undefined && isAnsweredBy(this.#errorHandler, request)) {
      answerRefusal(decided, limits, life, request, reply)
      return
    }
    limits.writeHeaders(decided.states, (name, value) => reply.header(name, value))
    fail(decided.toError(), life, request, reply, done)
  }
}

/** Where nobody would see the error there is none: under a flood that is most of what a refusal costs. */
function answerRefusal(
  refusal: Refusal,
  limits: RouteRateLimits<FastifyRequest>,
  life: RequestLife,
  request: FastifyRequest,
  reply: FastifyReply,
): void {
  const { violated, retryAfterMs } = refusal
  request.log.debug({ violated, retryAfterMs }, 'a rate limit refused the request')
  const { headers, body } = limits.answerTo(refusal)
  reply.code(429)
  for (const [name, value] of headers) reply.header(name, value)
  refuseUpgrade(request, reply)
  runInContext(life.scope, () => reply.send(body))
}

function fail(error: unknown, life: RequestLife, request: FastifyRequest, reply: FastifyReply, done: Done): void {
  refuseUpgrade(request, reply)
  runInContext(life.scope, () => done(error as Error))
}

// The socket of an upgrade has no parser any more that would notice its end, and @fastify/websocket only destroys those that
// came as far as its own hook.
function refuseUpgrade(request: FastifyRequest, reply: FastifyReply): void {
  if (request.raw.headers.upgrade === undefined) return
  reply.header('connection', 'close')
  reply.raw.once('finish', () => request.raw.socket.destroySoon())
}
