import type { RateLimitOptions } from '@reqscope/express-adapter'

export const PLAN_SONGS_PER_MINUTE = 60
export const SONGS_PER_MINUTE = 100

/** So many requests of a client to a route. */
export function perMinute(limit: number): RateLimitOptions {
  // While Redis can't be asked each process counts for itself, from nothing; so it is given a while to answer.
  return { limit, windowMs: 60_000, storeTimeoutMs: 2_000 }
}
