const brand = Symbol.for('reqscope.error')

/** The facts an error carries beside its message. */
export interface ReqscopeErrorOptions extends ErrorOptions {
  /** When trying again can succeed, in milliseconds; becomes `Retry-After`. */
  retryAfterMs?: number | undefined
}

/**
 * The base of every error of Reqscope.
 *
 * `code` is stable (`RSC_…`), `statusCode` is what an HTTP adapter answers with, and each subclass carries its facts as
 * fields. Use {@link isReqscopeError} rather than `instanceof` where two copies of the package may be installed.
 */
export abstract class ReqscopeError extends Error {
  abstract readonly code: `RSC_${string}`
  readonly statusCode: number = 500
  /** When trying again can succeed, in milliseconds. */
  readonly retryAfterMs: number | undefined
  readonly [brand] = true

  constructor(message: string, options: ReqscopeErrorOptions = {}) {
    super(message, 'cause' in options ? { cause: options.cause } : undefined)
    this.name = new.target.name
    this.retryAfterMs = options.retryAfterMs
  }
}

/** Whether `value` is an error of Reqscope, of this copy of the package or of another one. */
export function isReqscopeError(value: unknown): value is ReqscopeError {
  return typeof value === 'object' && value !== null && (value as Record<symbol, unknown>)[brand] === true
}

/** The facts about a scope that an error or a report names. */
export interface ScopeDescription {
  readonly id: string
  readonly kind: string
  readonly name: string
}

/** Only the facts: a scope in an error would outlive its request, with all that hangs on it. */
const described = ({ id, kind, name }: ScopeDescription): ScopeDescription => ({ id, kind, name })
const called = (scope: ScopeDescription): string => `${scope.kind} ${scope.name} (${scope.id})`
const taken = (site: string | undefined): string => (site === undefined ? '' : `, taken at ${site}`)

/** A handle was used after the scope that owns it had ended. */
export class ScopeEndedError extends ReqscopeError {
  readonly code = 'RSC_SCOPE_ENDED'
  readonly scope: ScopeDescription
  readonly resource: string
  readonly takenAt: string | undefined

  constructor(facts: { scope: ScopeDescription; resource: string; takenAt?: string | undefined }) {
    super(
      `The ${facts.resource} handle of ${called(facts.scope)}${taken(facts.takenAt)} was used after its scope had ended. ` +
        'Await all work before the handler returns, or give the later work a scope of its own (scopes.run).',
    )
    this.scope = described(facts.scope)
    this.resource = facts.resource
    this.takenAt = facts.takenAt
  }
}

/** A handle was used while another open scope was current: something request-scoped leaked. */
export class ScopeLeakError extends ReqscopeError {
  readonly code = 'RSC_SCOPE_LEAK'
  readonly scope: ScopeDescription
  readonly usedFrom: ScopeDescription
  readonly resource: string
  readonly takenAt: string | undefined
  readonly path: string | undefined

  constructor(facts: {
    scope: ScopeDescription
    usedFrom: ScopeDescription
    resource: string
    takenAt?: string | undefined
    /** Where it was found, when it was not used but about to be stored: `data.session.db of job send-receipt`. */
    path?: string | undefined
  }) {
    super(
      facts.path === undefined
        ? `The ${facts.resource} handle of ${called(facts.scope)}${taken(facts.takenAt)} was used inside ${called(facts.usedFrom)}. ` +
            `Use the handle of the scope you are in: currentScope().${facts.resource}.`
        : `${facts.path} belongs to ${called(facts.scope)} and ends with it. ` +
            'Pass an id and let the job read it through its own scope.',
    )
    this.scope = described(facts.scope)
    this.usedFrom = described(facts.usedFrom)
    this.resource = facts.resource
    this.takenAt = facts.takenAt
    this.path = facts.path
  }
}

/**
 * The scope was aborted: its client went away, the signal it was given fired, or its runtime is shutting down. Status 499,
 * which nobody will see; on shutdown 503 with Retry-After: the client is still there, and another instance can serve it.
 */
export class ScopeAbortedError extends ReqscopeError {
  readonly code = 'RSC_SCOPE_ABORTED'
  override readonly statusCode = 499 as 499 | 503
  readonly scope: ScopeDescription
  readonly reason: 'client' | 'shutdown' | 'settle-timeout' | 'signal' | 'job-lock-lost'

  constructor(facts: {
    scope: ScopeDescription
    reason: 'client' | 'shutdown' | 'settle-timeout' | 'signal' | 'job-lock-lost'
    cause?: unknown
  }) {
    const why = {
      client: 'its client closed the connection',
      shutdown: 'the application is shutting down',
      'settle-timeout': 'its handler had not settled in time after the response was closed',
      signal: 'the signal it was given fired',
      'job-lock-lost': 'its worker could not renew the lock on the job, so another worker may run it now',
    }[facts.reason]
    const retryAfterMs = facts.reason === 'shutdown' ? 1_000 : undefined
    super(`${called(facts.scope)} was aborted: ${why}.`, { cause: facts.cause, retryAfterMs })
    if (facts.reason === 'shutdown') this.statusCode = 503
    this.scope = described(facts.scope)
    this.reason = facts.reason
  }
}

/** The deadline of the scope has passed. Status 504. */
export class DeadlineExceededError extends ReqscopeError {
  readonly code = 'RSC_DEADLINE_EXCEEDED'
  override readonly statusCode = 504
  readonly scope: ScopeDescription
  readonly timeoutMs: number

  constructor(facts: { scope: ScopeDescription; timeoutMs: number; cause?: unknown }) {
    super(
      `${called(facts.scope)} did not finish within its timeout of ${facts.timeoutMs} ms. ` +
        'What still ran was cancelled and its transactions are rolled back.',
      { cause: facts.cause },
    )
    this.scope = described(facts.scope)
    this.timeoutMs = facts.timeoutMs
  }
}

/** There is no current scope where one is needed. */
export class NoActiveScopeError extends ReqscopeError {
  readonly code = 'RSC_NO_ACTIVE_SCOPE'

  constructor(facts: { needed: string; remedy?: string | undefined }) {
    super(
      `${facts.needed} needs a current scope, and there is none here. ${
        facts.remedy ??
        'Call it inside a request, a job or scopes.run; where a library lost the context, restore it with scope.bind(fn).'
      }`,
    )
  }
}

/** The runtime is closing, or refuses work it could not do in time. Status 503. */
export class OverloadedError extends ReqscopeError {
  readonly code = 'RSC_OVERLOADED'
  override readonly statusCode = 503
  readonly reason: 'shutdown' | 'overload'

  constructor(facts: { reason: 'shutdown' | 'overload'; what: string; retryAfterMs?: number | undefined }) {
    super(
      facts.reason === 'shutdown'
        ? `${facts.what} was refused: the application is shutting down. Send it to another instance.`
        : `${facts.what} was refused: the application is overloaded. Try again later.`,
      { retryAfterMs: facts.retryAfterMs },
    )
    this.reason = facts.reason
  }
}

/** No connection became free in time, or too many wait for one already. Status 503 with Retry-After. */
export class PoolExhaustedError extends ReqscopeError {
  readonly code = 'RSC_POOL_EXHAUSTED'
  override readonly statusCode = 503
  readonly resource: string
  readonly max: number
  readonly waiting: number
  readonly waitedMs: number
  readonly opening: number
  /** How many connections of the pool the asking scope itself holds. */
  readonly heldByScope: number
  readonly reason: 'timeout' | 'queue-full' | 'session-busy'

  constructor(facts: {
    resource: string
    max: number
    waiting: number
    waitedMs: number
    opening: number
    /** How many connections of the pool the asking scope itself holds. */
    heldByScope: number
    reason: 'timeout' | 'queue-full' | 'session-busy'
    retryAfterMs: number
    cause?: unknown
  }) {
    const what = {
      timeout: `No connection of ${facts.resource} became free within ${Math.round(facts.waitedMs)} ms`,
      'queue-full': `Too many already wait for a connection of ${facts.resource}`,
      'session-busy': `The connection of ${facts.resource} that holds this scope's session state stayed in a transaction for ${Math.round(facts.waitedMs)} ms`,
    }[facts.reason]
    const own =
      facts.heldByScope === 0
        ? ''
        : ` This scope holds ${facts.heldByScope} of them itself and waits for one more (a nested requiresNew, notSupported or parallel transaction?).`
    super(
      `${what}: ${facts.max} at most, ${facts.opening} being opened, ${facts.waiting} waiting.${own} ` +
        (facts.reason === 'session-busy'
          ? 'No other connection has that state: run its transactions one after another, or use pin for what needs it.'
          : 'scopes.snapshot() says who holds them; hold transactions for less long, or raise max.'),
      { retryAfterMs: facts.retryAfterMs, cause: facts.cause },
    )
    this.resource = facts.resource
    this.max = facts.max
    this.waiting = facts.waiting
    this.waitedMs = facts.waitedMs
    this.opening = facts.opening
    this.heldByScope = facts.heldByScope
    this.reason = facts.reason
  }
}

/** Why a connection could not be had, or was lost. */
export type ConnectionLostReason =
  | 'unreachable'
  | 'timeout'
  | 'authentication'
  | 'no-such-database'
  | 'tls'
  | 'too-many-connections'
  | 'not-ready'
  | 'lost'

/**
 * A connection was lost, or could not be opened. Status 503.
 *
 * `outcome` is `'unknown'` when it was lost while a COMMIT (or EXEC) was under way: the work may or may not have been
 * done, so do not blindly repeat it.
 */
export class ConnectionLostError extends ReqscopeError {
  readonly code = 'RSC_CONNECTION_LOST'
  override readonly statusCode = 503
  readonly resource: string
  readonly reason: ConnectionLostReason
  readonly outcome: 'unknown' | undefined

  constructor(facts: {
    resource: string
    reason: ConnectionLostReason
    message: string
    outcome?: 'unknown' | undefined
    cause?: unknown
    retryAfterMs?: number | undefined
  }) {
    super(facts.message, { cause: facts.cause, retryAfterMs: facts.retryAfterMs ?? 1_000 })
    this.resource = facts.resource
    this.reason = facts.reason
    this.outcome = facts.outcome
  }
}

/** A transaction was used after its end, or could not be committed because of what happened inside it. */
export class TransactionEndedError extends ReqscopeError {
  readonly code = 'RSC_TRANSACTION_ENDED'
  readonly scope: ScopeDescription
  readonly reason: 'used-after-end' | 'rollback-only' | 'aborted' | 'scope-ended'

  constructor(facts: {
    scope: ScopeDescription
    reason: 'used-after-end' | 'rollback-only' | 'aborted' | 'scope-ended'
    how?: 'committed' | 'rolled back' | undefined
    startedAt?: string | undefined
    cause?: unknown
  }) {
    const where = `of ${called(facts.scope)}${facts.startedAt === undefined ? '' : `, started at ${facts.startedAt},`}`
    const message = {
      'used-after-end': `The transaction ${where} was used after it had been ${facts.how ?? 'ended'}. Await every statement before its function returns, and read what a stream needs before.`,
      'rollback-only': `The transaction ${where} was rolled back: an error left a transaction that had joined it, and was caught. Let it pass, or use propagation 'nested' where a failure is expected.`,
      aborted: `The transaction ${where} was rolled back: a statement in it failed, its error was caught, and Postgres commits nothing after that. Let it pass, or wrap the statement in propagation 'nested'.`,
      'scope-ended': `The transaction ${where} was rolled back: its scope ended before its function had finished.`,
    }[facts.reason]
    super(message, { cause: facts.cause })
    this.scope = described(facts.scope)
    this.reason = facts.reason
  }
}

/** Something was asked of a shared connection that only an exclusive one can do. */
export class SharedConnectionError extends ReqscopeError {
  readonly code = 'RSC_SHARED_CONNECTION'
  readonly resource: string
  readonly operation: string

  constructor(facts: { resource: string; operation: string; instead: string; cause?: unknown }) {
    super(`${facts.operation} is refused on ${facts.resource}: ${facts.instead}`, { cause: facts.cause })
    this.resource = facts.resource
    this.operation = facts.operation
  }
}

/** What was to be enqueued is not JSON, or too large. Nothing was enqueued. */
export class JobPayloadError extends ReqscopeError {
  readonly code = 'RSC_JOB_PAYLOAD'
  readonly job: string
  /** Where it was found: `data.items[3].when`. */
  readonly path: string
  readonly found: string

  constructor(facts: { job: string; path: string; found: string; remedy?: string | undefined; cause?: unknown }) {
    super(
      `The payload of job ${facts.job} can't be stored: ${facts.path} is ${facts.found}. ` +
        (facts.remedy ?? 'Pass plain JSON: an id, and let the job read the rest through its own scope.'),
      { cause: facts.cause },
    )
    this.job = facts.job
    this.path = facts.path
    this.found = facts.found
  }
}

/** Given to an InvalidOptionError instead of a value that may be a secret, or hold one. */
export const UNSHOWN: unique symbol = Symbol('not shown')

/** An option is not what it must be. Options are checked where they are given, and never coerced. */
export class InvalidOptionError extends ReqscopeError {
  readonly code = 'RSC_INVALID_OPTION'
  readonly option: string
  readonly expected: string

  /** @param value what was given, or UNSHOWN; only its kind and, for short plain values, its text reach the message. */
  constructor(option: string, value: unknown, expected: string) {
    super(`Option ${option} must be ${expected}${value === UNSHOWN ? '' : `, but is ${shown(value)}`}.`)
    this.option = option
    this.expected = expected
  }
}

function shown(value: unknown): string {
  switch (typeof value) {
    case 'number':
    case 'boolean':
    case 'undefined':
      return String(value)
    case 'bigint':
      return `${value}n`
    // A string may be a URL with a password in it, so it is shown only where it can hardly be one.
    case 'string':
      return value.length <= 24 && !/[:@/]/.test(value) ? `'${value}'` : 'another string'
    case 'object':
      return value === null ? 'null' : Array.isArray(value) ? 'an array' : 'an object'
    default:
      return `a ${typeof value}`
  }
}
