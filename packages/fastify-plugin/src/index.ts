export { reqscope as default } from './plugin.ts'
export type { RedisPartOptions } from './redis-part.ts'
export { RegistrationError } from './registration-error.ts'
export type {
  RegisteredScopes,
  ReqscopeOptions,
  ReqscopeOptionsWithParts,
  ReqscopeOptionsWithScopes,
  RouteScopeConfig,
  ScopesOf,
} from './types.ts'
