/** What HTTP adapters share. For adapters: an application uses its framework's package. */
export type { AdaptiveOptions } from '../limits/adaptive.ts'
export type { AdmissionGate } from '../limits/admission-gate.ts'
export type { ConcurrencyOptions, Priority } from '../limits/concurrency.ts'
export type { Refusal } from '../limits/refusal.ts'
export { OptionReader } from '../options.ts'
export { runInContext } from '../scope/current.ts'
export { isTransactional } from '../scope/resource.ts'
export { enterGate, meetRateLimits, type RefusalResponder } from './admission.ts'
export { type ClosableServer, ConnectionCloser } from './connections.ts'
export { type DirectHandler, DirectResponse, type Next } from './direct-response.ts'
export { HEALTH_HEADERS, type HealthAnswer, type HealthEndpointOptions, HealthEndpoints } from './health-endpoints.ts'
export { onAbortOf } from './on-abort.ts'
export {
  logLevelOf,
  type ProblemBody,
  type ProblemDetails,
  problemDetails,
  retryAfterSeconds,
  typedErrorOf,
} from './problem-details.ts'
export {
  type Passage,
  type RefusalAnswer,
  type RouteRateLimitConfig,
  type RouteRateLimitOptions,
  RouteRateLimits,
} from './rate-limit-reply.ts'
export { lifetimeOf, type RawResponse, ResponseLifetime } from './response-lifetime.ts'
export { type RouteGateOptions, RouteGates } from './route-gates.ts'
export {
  type CommitRules,
  type ReplyFacts,
  type RouteTransactionOptions,
  readCommitRules,
  TransactionBeforeHead,
} from './transaction-before-head.ts'
