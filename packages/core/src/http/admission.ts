import { RateLimitExceededError } from '../errors.ts'
import type { AdmissionGate } from '../limits/admission-gate.ts'
import type { RateLimiter } from '../limits/rate-limiter.ts'
import { giveBack, type Passage, type RouteRateLimits } from './rate-limit-reply.ts'
import type { ResponseLifetime } from './response-lifetime.ts'

/** Goes on, in the request's scope: with what is behind the door, or with the error that keeps it shut. */
export type Admitted = (error?: unknown) => void

/** What a request asks its rate limits: what it consumes is noted in its life, and its reply says what is left. */
export function meetRateLimits<Request>(
  limits: RouteRateLimits<Request>,
  stage: 'onRequest' | 'preHandler',
  limiter: RateLimiter,
  request: Request,
  life: ResponseLifetime,
  goOn: Admitted,
): void {
  const pass = (passage: Passage) => {
    life.passage = passage
    limits.writeHeaders(passage, life)
    life.within(goOn)
  }
  const refuse = (error: unknown) => {
    life.passage = undefined // given back already
    if (error instanceof RateLimitExceededError) limits.writeHeaders({ states: error.states, of: limits }, life)
    life.turnedAway(error)
    life.within(() => goOn(error))
  }
  let checked: Passage | Promise<Passage>
  try {
    checked = limits.check(limiter, stage, request, life.passage)
  } catch (error) {
    refuse(error)
    return
  }
  if ('then' in checked) checked.then(pass, refuse)
  else pass(checked)
}

/** What a request asks at a gate: it is let in now, in turn, or not; then it gets back what its rate limits took. */
export function enterGate(gate: AdmissionGate, limiter: RateLimiter, life: ResponseLifetime, goOn: Admitted): void {
  const refuse = (error: unknown) => {
    giveBack(limiter, life.passage)
    life.passage = undefined
    life.turnedAway(error)
    life.within(() => goOn(error))
  }
  let waiting: Promise<void> | undefined
  try {
    waiting = gate.enter(life.scope)
  } catch (error) {
    refuse(error)
    return
  }
  if (waiting === undefined) life.within(goOn)
  else waiting.then(() => life.within(goOn), refuse)
}
