/** Rate limits: what a program imports of them beyond a route's config and `scope.consume`. */
export { RateLimitExceededError, type RateLimitState } from '../errors.ts'
export type { ConsumeOptions } from '../scope/consumer.ts'
export type { RateLimitOptions } from './rate-limit-options.ts'
export { type RateLimitedOptions, rateLimited } from './rate-limited.ts'
