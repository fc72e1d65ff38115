export { reqscope as default } from './plugin.ts'
export { RegistrationError } from './registration-error.ts'
export type {
  RegisteredScopes,
  ReqscopeOptions,
  ReqscopeOptionsWithParts,
  ReqscopeOptionsWithScopes,
  RouteScopeConfig,
  ScopesOf,
} from './types.ts'
export { type ReqscopeWorkersOptions, reqscopeWorkers } from './workers.ts'
