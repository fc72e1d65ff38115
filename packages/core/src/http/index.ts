/** What HTTP adapters share. For adapters: an application uses its framework's package. */
export { AdaptiveLimit, type AdaptiveOptions } from '../limits/adaptive.ts'
export { AdmissionGate } from '../limits/admission-gate.ts'
export { ConcurrencyLimit, type ConcurrencyOptions, PRIORITIES, type Priority } from '../limits/concurrency.ts'
export { Refusal } from '../limits/refusal.ts'
export { OptionReader } from '../options.ts'
export { runInContext } from '../scope/current.ts'
export { isTransactional } from '../scope/resource.ts'
export { type ClosableServer, ConnectionCloser } from './connections.ts'
export { type DirectHandler, DirectResponse, type Next } from './direct-response.ts'
export { type HealthAnswer, type HealthEndpointOptions, HealthEndpoints } from './health-endpoints.ts'
export { onAbortOf } from './on-abort.ts'
export {
  type ProblemBody,
  type ProblemDetails,
  problemDetails,
  retryAfterSeconds,
  typedErrorOf,
} from './problem-details.ts'
export {
  giveBack,
  type Passage,
  type RefusalAnswer,
  type RouteRateLimitConfig,
  type RouteRateLimitOptions,
  RouteRateLimits,
} from './rate-limit-reply.ts'
export { lifetimeOf, type RawResponse, ResponseLifetime } from './response-lifetime.ts'
export {
  type CommitRules,
  type ReplyFacts,
  type RouteTransactionOptions,
  readCommitRules,
  TransactionBeforeHead,
} from './transaction-before-head.ts'
