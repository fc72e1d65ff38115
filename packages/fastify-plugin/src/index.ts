export { RegistrationError } from '@reqscope/core'
export { reqscope as default } from './plugin.ts'
export type { RedisPartOptions } from './redis-part.ts'
export type {
  RegisteredScopes,
  ReqscopeOptions,
  ReqscopeOptionsWithParts,
  ReqscopeOptionsWithScopes,
  RouteScopeConfig,
  ScopesOf,
} from './types.ts'
export { type ReqscopeWorkersOptions, reqscopeWorkers } from './workers.ts'
