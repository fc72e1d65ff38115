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

/** Why work was refused at the door. */
export type OverloadReason = 'shutdown' | 'overload' | 'concurrency' | 'adaptive' | 'pool-wait' | 'rate-limit-store'

/** The runtime is closing, or refuses work it could not do in time. Status 503. */
export class OverloadedError extends ReqscopeError {
  readonly code = 'RSC_OVERLOADED'
  override readonly statusCode = 503
  readonly reason: OverloadReason

  constructor(facts: { reason: OverloadReason; what: string; retryAfterMs?: number | undefined; cause?: unknown }) {
    const why = {
      shutdown: 'the application is shutting down. Send it to another instance',
      overload: 'the application is overloaded. Try again later',
      concurrency: 'as many as its concurrency limit allows are under way, and no more may wait. Try again later',
      adaptive: 'the application takes longer and longer to answer, so it takes on less. Try again later',
      'pool-wait': 'the wait for a connection would outlast its deadline. Try again later',
      'rate-limit-store': 'its rate limit can not be counted at the moment. Try again later',
    }[facts.reason]
    super(`${facts.what} was refused: ${why}.`, { retryAfterMs: facts.retryAfterMs, cause: facts.cause })
    this.reason = facts.reason
  }
}

/** What a client may know of one limit it was counted by. */
export interface RateLimitState {
  /** What the limit is called. */
  readonly name: string
  readonly limit: number
  readonly windowMs: number
  /** How many requests of cost 1 would pass at once. */
  readonly remaining: number
  /** In how many milliseconds: all of the quota is there again or, for the limit that refused, the request may pass. */
  readonly resetMs: number
}

/** A rate limit was exceeded; nothing was consumed. Status 429 with Retry-After, except where it can never pass. */
export class RateLimitExceededError extends ReqscopeError {
  readonly code = 'RSC_RATE_LIMIT_EXCEEDED'
  override readonly statusCode = 429
  /** The names of the limits that refused. */
  readonly violated: readonly string[]
  /** Every limit that is known of, those that refused first. */
  readonly states: readonly RateLimitState[]

  constructor(facts: {
    violated: readonly string[]
    states: readonly RateLimitState[]
    retryAfterMs: number | undefined
  }) {
    const limits = facts.states
      .filter(({ name }) => facts.violated.includes(name))
      .map(({ name, limit, windowMs }) => `"${name}" (${limit} in ${windowMs} ms)`)
    super(
      `Rate limit exceeded: ${limits.join(', ')}. ${
        facts.retryAfterMs === undefined
          ? 'It can never pass: it asks for more than may come at once.'
          : `Try again in ${facts.retryAfterMs} ms.`
      }`,
      { retryAfterMs: facts.retryAfterMs },
    )
    this.violated = facts.violated
    this.states = facts.states
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

/** A resource could not be reached several times in a row, so it is left alone for a moment. Status 503 with Retry-After. */
export class CircuitOpenError extends ReqscopeError {
  readonly code = 'RSC_CIRCUIT_OPEN'
  override readonly statusCode = 503
  readonly resource: string

  constructor(facts: { resource: string; retryAfterMs: number; cause?: unknown }) {
    const why = facts.cause instanceof Error ? ` The last attempt failed with: ${facts.cause.message}` : ''
    super(
      `${facts.resource} could not be reached several times in a row and is tried again in ${Math.ceil(facts.retryAfterMs)} ms.${why}`,
      { retryAfterMs: facts.retryAfterMs, cause: facts.cause },
    )
    this.resource = facts.resource
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

/** An adapter, or a part of one, was registered where, when or as often as it can't be. */
export class RegistrationError extends ReqscopeError {
  readonly code = 'RSC_REGISTRATION'

  constructor(message: string) {
    super(message)
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

/** What was watched changed in every attempt, so nothing was written. Status 409. */
export class OptimisticConflictError extends ReqscopeError {
  readonly code = 'RSC_OPTIMISTIC_CONFLICT'
  override readonly statusCode = 409
  readonly resource: string
  readonly keys: readonly string[]
  readonly attempts: number

  constructor(facts: { resource: string; keys: readonly string[]; attempts: number }) {
    const keys = facts.keys.map((key) => `'${key}'`).join(', ')
    super(
      `${keys} of ${facts.resource} changed in each of ${facts.attempts} attempts, and nothing was written. ` +
        'Try again later; where many write one key, allow more attempts, use a command that needs no reading (INCRBY, a script), or take a lock.',
      { retryAfterMs: 1_000 },
    )
    this.resource = facts.resource
    this.keys = [...facts.keys]
    this.attempts = facts.attempts
  }
}

/** A command of a MULTI failed. Redis rolls nothing back: `applied` says whether the others were done. */
export class ExecCommandError extends ReqscopeError {
  readonly code = 'RSC_EXEC_COMMAND'
  readonly resource: string
  /** Which command of the MULTI it was, counted from 0. */
  readonly index: number
  /** True when it failed while EXEC ran and the other commands were done; false when EXEC refused them all. */
  readonly applied: boolean

  constructor(facts: { resource: string; index: number; applied: boolean; cause: unknown }) {
    const why = facts.cause instanceof Error ? facts.cause.message : String(facts.cause)
    super(
      `Command ${facts.index} of a MULTI on ${facts.resource} failed (${why}). ` +
        (facts.applied
          ? 'The commands beside it were done: Redis undoes nothing, so mend what they wrote.'
          : 'None of its commands was done. Correct the command.'),
      { cause: facts.cause },
    )
    this.resource = facts.resource
    this.index = facts.index
    this.applied = facts.applied
  }
}

/** Who holds a lock, as far as its store knows. */
export interface LockHolder {
  /** The machine and the process: `web-1:4711`. */
  readonly process: string
  /** What it holds the lock for: `POST /orders`. */
  readonly name: string
  /** The scope's id; undefined for `withLock` outside of every scope. */
  readonly scopeId: string | undefined
  /** How long it has held the lock, in milliseconds. */
  readonly heldMs: number | undefined
}

/** A lock was not free within the time its taker would wait. Status 409. */
export class LockTimeoutError extends ReqscopeError {
  readonly code = 'RSC_LOCK_TIMEOUT'
  override readonly statusCode = 409
  readonly keys: readonly string[]
  /** How long was waited, in milliseconds. */
  readonly waitedMs: number
  readonly holder: LockHolder | undefined

  constructor(facts: {
    keys: readonly string[]
    waitedMs: number
    holder?: LockHolder | undefined
    /** The asking scope holds it itself, in a branch of its code that this one is not inside of. */
    bySameScope?: boolean | undefined
  }) {
    const { holder, waitedMs } = facts
    const held = holder?.heldMs === undefined ? '' : ` for ${Math.round(holder.heldMs)} ms`
    const by = holder === undefined ? '' : `, held by ${holder.name} in process ${holder.process}${held}`
    super(
      `${theLock(facts.keys)} was not free within ${Math.round(waitedMs)} ms${by}. ` +
        (facts.bySameScope
          ? 'That is the same scope, in a branch this code is not inside of: nest the calls, or pass reentrant: true.'
          : 'Hold it for less long, wait longer (waitMs), or tell the client to try again.'),
      { retryAfterMs: 1_000 },
    )
    this.keys = facts.keys
    this.waitedMs = waitedMs
    this.holder = holder
  }
}

/** The store of the locks can't be reached or does not answer: nobody knows who holds the lock. Status 503. */
export class LockUnavailableError extends ReqscopeError {
  readonly code = 'RSC_LOCK_UNAVAILABLE'
  override readonly statusCode = 503
  readonly keys: readonly string[]
  readonly store: string

  constructor(facts: { keys: readonly string[]; store: string; cause: unknown }) {
    super(
      `${theLock(facts.keys)} could not be taken: its store (${facts.store}) did not answer. ` +
        'Nobody knows who holds it, so the work was not begun; try again when the store is back.',
      { cause: facts.cause, retryAfterMs: 1_000 },
    )
    this.keys = facts.keys
    this.store = facts.store
  }
}

export type LockLostReason = 'expired' | 'taken' | 'held-too-long' | 'scope-ended' | 'stale-fence'

/** The lock this code runs under is not (or not surely) its own any more. */
export class LockLostError extends ReqscopeError {
  readonly code = 'RSC_LOCK_LOST'
  readonly keys: readonly string[]
  readonly reason: LockLostReason

  constructor(facts: { keys: readonly string[]; reason: LockLostReason; cause?: unknown }) {
    const why = {
      expired:
        'was lost: its lease could not be renewed in time (the process was paused, its event loop blocked, or the store away)',
      taken: 'was lost: its store no longer knows this holder (it expired there, or the store lost its data)',
      'held-too-long': 'was lost: it was held for longer than maxHoldMs',
      'scope-ended': 'was taken back: its scope ended before the work under it had finished',
      'stale-fence': 'had been lost: a later holder has written already, so this write was refused',
    }[facts.reason]
    super(
      `${theLock(facts.keys)} ${why}. Somebody else may hold it: do no more of the work under it; begin again with a new lock.`,
      { cause: facts.cause },
    )
    this.keys = facts.keys
    this.reason = facts.reason
  }
}

const theLock = (keys: readonly string[]): string => {
  if (keys.length === 0) return 'The lock'
  return keys.length === 1 ? `The lock '${keys[0]}'` : `The lock on ${keys.map((key) => `'${key}'`).join(', ')}`
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

/** One scope ran the same statement again and again: usually a query in a loop. Thrown where `repeatedStatements` says so. */
export class RepeatedStatementsError extends ReqscopeError {
  readonly code = 'RSC_REPEATED_STATEMENTS'
  readonly scope: ScopeDescription
  readonly resource: string
  readonly statement: string
  readonly count: number
  /** How long those before it took together, in milliseconds. */
  readonly totalMs: number
  readonly site: string | undefined

  constructor(facts: {
    scope: ScopeDescription
    resource: string
    statement: string
    count: number
    totalMs: number
    site: string | undefined
  }) {
    super(
      `${called(facts.scope)} ran the same statement of ${facts.resource} ${facts.count} times${
        facts.site === undefined ? '' : `, at ${facts.site}`
      }: ${facts.statement}\nRead what they read in one statement (a join, or an IN list), or raise ` +
        'repeatedStatements.threshold.',
    )
    this.scope = described(facts.scope)
    this.resource = facts.resource
    this.statement = facts.statement
    this.count = facts.count
    this.totalMs = facts.totalMs
    this.site = facts.site
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
