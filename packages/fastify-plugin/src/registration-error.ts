import { ReqscopeError } from '@reqscope/core'

/** The plugin was registered where, when or as often as it can't be. */
export class RegistrationError extends ReqscopeError {
  readonly code = 'RSC_REGISTRATION'
}
