export {
  CircuitOpenError,
  ConnectionLostError,
  type ConnectionLostReason,
  DeadlineExceededError,
  ExecCommandError,
  InvalidOptionError,
  isReqscopeError,
  JobPayloadError,
  type LockHolder,
  LockLostError,
  type LockLostReason,
  LockTimeoutError,
  LockUnavailableError,
  NoActiveScopeError,
  OptimisticConflictError,
  OverloadedError,
  type OverloadReason,
  PoolExhaustedError,
  RateLimitExceededError,
  type RateLimitState,
  RegistrationError,
  RepeatedStatementsError,
  ReqscopeError,
  ScopeAbortedError,
  type ScopeDescription,
  ScopeEndedError,
  ScopeLeakError,
  SharedConnectionError,
  TransactionEndedError,
} from './errors.ts'
export type { LeaseDescription, ReqscopeEvents } from './events.ts'
export type { CrossedThreshold, Health, HealthThresholds } from './health.ts'
export type { Cleanup, Outcome } from './scope/cleanup-stack.ts'
export type { ConsumeOptions } from './scope/consumer.ts'
export { defineResource, type ResourceDefinition } from './scope/define-resource.ts'
export type { Enqueueable, EnqueueOptions, JobSystem, JobWorkers, WorkOptions } from './scope/job.ts'
export type { Json, NotJson } from './scope/json.ts'
export type { Logger } from './scope/logger.ts'
export { currentScope, type Register, type RegisteredScope, type ScopeWith, tryCurrentScope } from './scope/register.ts'
export type { HandleOf, Resource, ResourceHealth, Resources, TransactionOptions } from './scope/resource.ts'
export type { Scope, ScopeKind, SpawnOptions } from './scope/scope.ts'
export { createScopes, type RunOptions, type Scopes, type ScopesOptions, type Snapshot } from './scopes.ts'
