import type { AdmissionGate } from '../limits/admission-gate.ts'
import type { RateLimiter } from '../limits/rate-limiter.ts'
import { Refusal } from '../limits/refusal.ts'
import { giveBack, type Passage, type RefusalAnswer, type RouteRateLimits } from './rate-limit-reply.ts'
import type { ResponseLifetime } from './response-lifetime.ts'

/** Goes on, in the request's scope: with what is behind the door, or with the error that keeps it shut. */
export type Admitted = (error?: unknown) => void

/**
 * Answers a refusal itself where nobody would see the error, and says whether it did: under a flood, the error and its way to who
 * answers errors is most of what a refusal costs. `answer` makes the whole answer.
 */
export interface RefusalResponder<Request, Life> {
  responds(refusal: Refusal, request: Request, life: Life, answer: (refusal: Refusal) => RefusalAnswer): boolean
}

/** What a request asks its rate limits: what it consumes is noted in its life, and its reply says what is left. */
export function meetRateLimits<Request, Life extends ResponseLifetime>(
  limits: RouteRateLimits<Request>,
  stage: 'onRequest' | 'preHandler',
  limiter: RateLimiter,
  request: Request,
  life: Life,
  goOn: Admitted,
  responder?: RefusalResponder<Request, Life>,
): void {
  let checked: Passage | Refusal | Promise<Passage | Refusal>
  try {
    checked = limits.check(limiter, stage, request, life.passage)
  } catch (error) {
    turnAway(error, life, goOn)
    return
  }
  if (!('then' in checked)) {
    decided(checked, limits, request, life, goOn, responder)
    return
  }
  checked.then(
    (late) => decided(late, limits, request, life, goOn, responder),
    (error: unknown) => turnAway(error, life, goOn),
  )
}

function decided<Request, Life extends ResponseLifetime>(
  decision: Passage | Refusal,
  limits: RouteRateLimits<Request>,
  request: Request,
  life: Life,
  goOn: Admitted,
  responder: RefusalResponder<Request, Life> | undefined,
): void {
  if (!(decision instanceof Refusal)) {
    life.passage = decision
    limits.writeHeaders(decision, life)
    life.within(goOn)
    return
  }
  if (responder?.responds(decision, request, life, limits.answerTo)) {
    life.passage = undefined
    return
  }
  limits.writeHeaders({ states: decision.states, of: limits }, life)
  turnAway(decision.toError(), life, goOn)
}

/** What a request asks at a gate: it is let in now, in turn, or not; then it gets back what its rate limits took. */
export function enterGate(gate: AdmissionGate, limiter: RateLimiter, life: ResponseLifetime, goOn: Admitted): void {
  let waiting: Promise<void> | undefined
  try {
    waiting = gate.enter(life.scope)
  } catch (error) {
    refuseAtGate(error, limiter, life, goOn)
    return
  }
  if (waiting === undefined) {
    life.within(goOn)
    return
  }
  waiting.then(
    () => life.within(goOn),
    (error: unknown) => refuseAtGate(error, limiter, life, goOn),
  )
}

function refuseAtGate(error: unknown, limiter: RateLimiter, life: ResponseLifetime, goOn: Admitted): void {
  giveBack(limiter, life.passage)
  turnAway(error, life, goOn)
}

function turnAway(error: unknown, life: ResponseLifetime, goOn: Admitted): void {
  life.passage = undefined // given back already
  life.turnedAway(error)
  life.within(() => goOn(error))
}
