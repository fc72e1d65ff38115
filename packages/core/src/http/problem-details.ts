import { STATUS_CODES } from 'node:http'
import { isReqscopeError, type RateLimitExceededError, type ReqscopeError } from '../errors.ts'

/** A response for a typed error: `application/problem+json`, RFC 9457. */
export interface ProblemDetails {
  readonly statusCode: number
  readonly headers: Readonly<Record<string, string>>
  readonly body: ProblemBody
}

export interface ProblemBody {
  readonly type: string
  readonly title: string
  readonly status: number
  readonly detail?: string
  /** The error's stable code, `RSC_…`. */
  readonly code: string
  /** The work may or may not have been done. */
  readonly outcome?: 'unknown'
  /** The names of the limits that refused. */
  readonly 'violated-policies'?: readonly string[]
}

const REDUCED_CAPACITY = 'https://iana.org/assignments/http-problem-types#temporary-reduced-capacity'
const QUOTA_EXCEEDED = 'https://iana.org/assignments/http-problem-types#quota-exceeded'

// By code: what a client may know. Messages of 5xx are for the log; they name files, hosts and statements.
const BUSY: Partial<Record<string, { readonly type: string; readonly title: string; readonly detail: string }>> = {
  RSC_POOL_EXHAUSTED: {
    type: REDUCED_CAPACITY,
    title: 'Temporary Reduced Capacity',
    detail: 'The server has more to do than it can at the moment. Try again later.',
  },
  RSC_OVERLOADED: {
    type: REDUCED_CAPACITY,
    title: 'Temporary Reduced Capacity',
    detail: 'The server does not take this request at the moment. Try again later.',
  },
}
const UNAVAILABLE = 'Something the server depends on is not available at the moment. Try again later.'
const TOO_LATE = 'The request could not be answered in time; what had been begun was undone where that was possible.'
const UNKNOWN =
  'The connection was lost while the work was being committed: it may or may not have been done. Check before repeating it.'

/**
 * The typed error that `error` is or stands for. What was given a scope's signal may reject with an `AbortError` of its own,
 * whose cause is the signal's reason: `node:timers/promises` does.
 */
export function typedErrorOf(error: unknown): ReqscopeError | undefined {
  if (isReqscopeError(error)) return error
  const { name, cause } = (error ?? {}) as { name?: unknown; cause?: unknown }
  return name === 'AbortError' && isReqscopeError(cause) ? cause : undefined
}

/** What a client is told of a typed error: its status, when to try again, and nothing of the server's insides. */
export function problemDetails(error: ReqscopeError): ProblemDetails {
  const { statusCode, code } = error
  const outcome = (error as { outcome?: unknown }).outcome === 'unknown' ? ('unknown' as const) : undefined
  const violated = code === 'RSC_RATE_LIMIT_EXCEEDED' ? (error as RateLimitExceededError).violated : undefined
  const headers: Record<string, string> = { 'content-type': 'application/problem+json' }
  const retryAfter = retryAfterSeconds(error)
  if (retryAfter !== undefined) headers['retry-after'] = String(retryAfter)
  const busy = BUSY[code]
  const detail = outcome === 'unknown' ? UNKNOWN : (busy?.detail ?? detailOf(error))
  return {
    statusCode,
    headers,
    body: {
      type: busy?.type ?? (statusCode === 429 ? QUOTA_EXCEEDED : 'about:blank'),
      title: busy?.title ?? STATUS_CODES[statusCode] ?? (statusCode === 499 ? 'Client Closed Request' : 'Error'),
      status: statusCode,
      ...(detail === undefined ? {} : { detail }),
      code,
      ...(outcome === undefined ? {} : { outcome }),
      ...(violated === undefined ? {} : { 'violated-policies': violated }),
    },
  }
}

/**
 * How a typed error that is answered is logged. A flood that is refused must not become a flood of log lines; there are
 * events that count it.
 */
export function logLevelOf(error: ReqscopeError): 'debug' | 'info' | 'error' {
  const { reason } = error as { reason?: unknown }
  if (error.statusCode === 429 || (error.code === 'RSC_OVERLOADED' && reason !== 'shutdown')) return 'debug'
  return error.statusCode >= 500 ? 'error' : 'info'
}

/** `Retry-After` in whole seconds, at least 1; undefined where trying again blindly may do the work twice. */
export function retryAfterSeconds(error: ReqscopeError): number | undefined {
  if (error.retryAfterMs === undefined || (error as { outcome?: unknown }).outcome === 'unknown') return undefined
  return Math.max(1, Math.ceil(error.retryAfterMs / 1_000))
}

function detailOf(error: ReqscopeError): string | undefined {
  if (error.statusCode < 500) return error.message
  if (error.statusCode === 503) return UNAVAILABLE
  if (error.statusCode === 504) return TOO_LATE
  return undefined
}
