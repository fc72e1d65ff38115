/**
 * The generic cell rate algorithm, in whole numbers.
 *
 * A subject's backlog rises with what it asks for and falls with time; a request passes while the backlog stays within the
 * burst. Kept is when the backlog will be gone, the "theoretical arrival time" of the algorithm (ITU-T I.371). One request
 * takes `window / limit` of time, which is a fraction `p / q` of microseconds; counted in units of `1 / q` µs nothing is ever
 * rounded, so a limit of 7 a minute is 7 a minute.
 */

/** A limit as the algorithm needs it. */
export interface Rate {
  /** What one request costs, in units of 1/q µs. */
  readonly p: number
  /** How many units a microsecond has. */
  readonly q: number
  /** How many requests may come at once. */
  readonly burst: number
}

/** When a backlog is gone: whole microseconds since the epoch, and a fraction `f / q` of one. */
export interface Arrival {
  readonly us: number
  readonly f: number
  readonly q: number
}

/** Above this the arithmetic would no longer be exact. */
const MAX_UNITS = 2 ** 51

/** The rate of so many requests in so many milliseconds; undefined where its numbers are too large to count with exactly. */
export function rateOf(limit: number, windowMs: number, burst: number): Rate | undefined {
  const windowUs = windowMs * 1_000
  const divisor = greatestCommonDivisor(windowUs, limit)
  const p = windowUs / divisor
  return p * burst > MAX_UNITS ? undefined : { p, q: limit / divisor, burst }
}

/** The backlog that is left at `nowUs`, in units. A clock that was set back leaves no more than a full one. */
export function backlogAt(nowUs: number, stored: Arrival | undefined, { p, q, burst }: Rate): number {
  if (stored === undefined) return 0
  const f = stored.q === q ? stored.f : Math.floor((stored.f * q) / stored.q)
  return Math.max(0, Math.min(p * burst, (stored.us - nowUs) * q + f))
}

/** Whether a request of this cost passes on top of the backlog. */
export function fits(backlog: number, cost: number, { p, burst }: Rate): boolean {
  return backlog + cost * p <= p * burst
}

/** When this backlog, counted from `nowUs`, will be gone. */
export function arrivalOf(nowUs: number, backlog: number, { q }: Rate): Arrival {
  return { us: nowUs + Math.floor(backlog / q), f: backlog % q, q }
}

/** How many requests of cost 1 would pass at once. */
export function remainingOf(backlog: number, { p, burst }: Rate): number {
  return Math.floor((p * burst - backlog) / p)
}

/** In how many milliseconds all of the burst is there again, rounded up. */
export function resetMsOf(backlog: number, { q }: Rate): number {
  return Math.ceil(backlog / q / 1_000)
}

/** In how many milliseconds a request of this cost passes, rounded up; undefined where it never will. */
export function retryAfterMsOf(backlog: number, cost: number, { p, q, burst }: Rate): number | undefined {
  if (cost > burst) return undefined
  return Math.max(0, Math.ceil((backlog + cost * p - p * burst) / q / 1_000))
}

function greatestCommonDivisor(a: number, b: number): number {
  let [x, y] = [a, b]
  while (y !== 0) [x, y] = [y, x % y]
  return x
}
