export { Locked, type LockedOptions, locked } from './locked.ts'
export type { AsyncMethodDecorator } from './method-decorator.ts'
export { RateLimited, type RateLimitedOptions, rateLimited } from './rate-limited.ts'
export { Transactional, transactional } from './transactional.ts'
