/**
 * A moment by two clocks of this process. The monotonic one stands still while a machine is suspended, the wall clock may
 * be set back: what has passed since is what the clock says that saw more of it.
 */
export interface Moment {
  readonly monotonicMs: number
  readonly wallMs: number
}

/** What time decides about locks, so that tests can decide about time. */
export interface Clock {
  now(): Moment
}

export const processClock: Clock = {
  now: () => ({ monotonicMs: performance.now(), wallMs: Date.now() }),
}

/** How many milliseconds lie between two moments, at least. */
export function elapsedMs(from: Moment, to: Moment): number {
  return Math.max(to.monotonicMs - from.monotonicMs, to.wallMs - from.wallMs)
}

export function later(moment: Moment, ms: number): Moment {
  return { monotonicMs: moment.monotonicMs + ms, wallMs: moment.wallMs + ms }
}

/** What has to be taken off a duration because two clocks do not run at the same speed. */
export function driftMs(ofMs: number): number {
  return ofMs * 0.01 + 2
}
