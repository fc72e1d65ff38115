import { setTimeout as delay } from 'node:timers/promises'
import { type ReqscopeError, SharedConnectionError } from '../errors.ts'
import { type LeaseDescription, publish } from '../events.ts'
import type { AcquisitionSite } from '../scope/acquisition-site.ts'
import { outsideEveryScope } from '../scope/current.ts'
import { isConnectionLoss } from './connect-failure.ts'
import type { Connection } from './connection.ts'
import type { PooledLease } from './pool.ts'
import { withoutGap } from './row-gap.ts'
import { staleFence } from './stale-fence.ts'
import type { Statement } from './statement.ts'
import type { StatementLog } from './statement-log.ts'
import { type Effect, effectOfTag, setsLocally } from './statement-text.ts'

/** What of its borrower a lease needs. */
export interface LeaseHolder {
  readonly scope: {
    readonly id: string
    readonly kind: string
    readonly name: string
    /** @internal */
    readonly cancelReason: ReqscopeError | undefined
  }
  readonly resource: string
  readonly leakThresholdMs: number
  readonly statementTimeoutMs: number
  readonly statements: StatementLog | undefined
  /** The lease has nothing in flight any more. */
  settled(lease: Lease): void
  /** Takes the lease away from the holder; its connection goes to somebody else. */
  yielded(lease: Lease): void
  warn(facts: object, message: string): void
}

/** Why a lease can't be handed on although nothing is in flight. */
export type Hold = 'transaction' | 'pinned' | 'cursor'

/** How much later than the server's own timeout a statement without any answer counts as lost, in milliseconds. */
const ANSWER_GRACE_MS = 5_000
const CANCEL_AGAIN_MS = 10
const CANCEL_ATTEMPTS = 100

/** An exclusive hold of one connection by one scope. Every statement runs through one. */
export class Lease implements PooledLease {
  readonly connection: Connection
  /** Where it was acquired, as near as the holder knows. */
  site: AcquisitionSite | undefined
  /** While it is being reset to be given back: that happens once. */
  returning: Promise<void> | undefined
  /** Set when its scope takes it back although something may still run on it: what that is told. */
  reclaimedBy: ReqscopeError | undefined

  readonly #holder: LeaseHolder
  readonly #since = performance.now()
  #hold: Hold | undefined
  #heldSince = 0
  #inFlight = 0
  #reserved = true
  #sessionState = false
  #doubtful = false
  /** A statement on it has chosen another statement timeout: how long an answer may take is not ours to say. */
  #ownStatementTimeout = false
  #lastText: string | undefined
  #lastStartedAt = 0
  #settledAt = 0
  #beginning: Promise<unknown> | undefined
  #cancelling: Promise<void> | undefined
  #onProgress: (() => void) | undefined
  #reportedAsLeak = false

  constructor(connection: Connection, holder: LeaseHolder, site: AcquisitionSite | undefined) {
    this.connection = connection
    this.#holder = holder
    this.site = site
  }

  /** Nothing is in flight, and nobody is about to send something. */
  get isIdle(): boolean {
    return this.#inFlight === 0 && !this.#reserved && this.#cancelling === undefined
  }

  /** A statement can be sent on it right now. */
  get isReady(): boolean {
    return this.#cancelling === undefined && this.#hold !== 'cursor' && !this.connection.isGone
  }

  get hold(): Hold | undefined {
    return this.#hold
  }

  get hasSessionState(): boolean {
    return this.#sessionState
  }

  /** What it takes to make the connection fit for the next borrower. */
  get condition(): 'clean' | 'session-state' | 'doubtful' {
    if (this.#doubtful || this.#inFlight > 0 || this.#hold === 'cursor') return 'doubtful'
    return this.#sessionState ? 'session-state' : 'clean'
  }

  /** From now on it does not yield; the leak clock starts. */
  holdFor(hold: Hold): void {
    if (this.#hold === undefined && !this.#sessionState) this.#heldSince = performance.now()
    this.#hold = hold
  }

  unhold(to?: Hold): void {
    this.#hold = to
    if (to === undefined && !this.#sessionState) this.returned()
  }

  /** What happened on it may have changed the session: it is reset before anybody else has it. */
  noteSessionState(): void {
    if (!this.#sessionState && this.#hold === undefined) this.#heldSince = performance.now()
    this.#sessionState = true
  }

  /** Nobody knows what state it is in: its connection is discarded. */
  noteDoubt(): void {
    this.#doubtful = true
  }

  /** What a statement does to the session, as its text or its tag shows. */
  noteEffect(effect: Effect): void {
    if (effect === 'session-doubt') this.noteDoubt()
    else if (effect !== 'none') this.noteSessionState()
  }

  /** The one who got it does not want it any more, or has sent its first statement. */
  unreserve(): void {
    this.#reserved = false
  }

  yieldIfIdle(): Connection | undefined {
    if (!this.isIdle || this.#hold !== undefined || this.condition !== 'clean' || this.connection.isGone)
      return undefined
    this.#holder.yielded(this)
    return this.connection
  }

  /** Runs a statement of the user's. Its connection's failure becomes a ConnectionLostError, a cancelled scope's reason its own. */
  execute<Result>(statement: Statement<Result>): Promise<Result> {
    this.#reserved = false
    if (this.connection.isGone) return Promise.reject(this.#lost(undefined))
    if (this.#hold === 'cursor') return Promise.reject(cursorIsOpen(this.#holder.resource))
    const { effect } = statement
    if (effect !== 'none') this.noteEffect(effect)
    if (statement.setsStatementTimeout) this.#ownStatementTimeout = true
    this.#inFlight++
    const { text } = statement
    this.#lastText = text
    const startedAt = performance.now()
    this.#lastStartedAt = startedAt
    return this.#sent(statement).then(
      (result) => {
        statement.settled()
        if (!statement.isOurs) this.#holder.statements?.settled(text, performance.now() - startedAt)
        this.#noteTags(result, statement)
        this.#settle()
        return withoutGap(result)
      },
      (error: unknown) => {
        statement.settled()
        if (!statement.isOurs) this.#holder.statements?.settled(text, performance.now() - startedAt)
        const failure = this.failure(error)
        this.#settle()
        throw failure
      },
    ) as Promise<Result>
  }

  #sent<Result>(statement: Statement<Result>): PromiseLike<Result> {
    try {
      return statement.send(this.connection, this)
    } catch (error) {
      return Promise.reject(error)
    }
  }

  /**
   * Waits for a piece of what a cursor or stream does; only while it waits is there something to cancel.
   *
   * @throws as `execute` does.
   */
  async fetch<Result>(text: string, piece: () => PromiseLike<Result>): Promise<Result> {
    if (this.connection.isGone) throw this.#lost(undefined)
    this.#inFlight++
    this.#lastText = text
    this.#lastStartedAt = performance.now()
    try {
      return await piece()
    } catch (error) {
      throw this.failure(error)
    } finally {
      this.#settle()
    }
  }

  /** Runs a statement of our own, such as COMMIT; resolves to its command tag. */
  control(text: string, outcome?: 'unknown'): Promise<string> {
    this.#reserved = false
    if (this.connection.isGone) return Promise.reject(this.#lost(undefined))
    this.#inFlight++
    this.#lastText = text
    this.#lastStartedAt = performance.now()
    return this.connection.sql.unsafe(text).then(
      (result) => {
        this.#settle()
        return lastTagOf(result as unknown as TaggedResult | TaggedResult[])
      },
      (error: unknown) => {
        const failure = this.#isLost(error) ? this.#lost(error, outcome) : this.failure(error)
        this.#settle()
        throw failure
      },
    )
  }

  /**
   * Sends BEGIN and does not wait for it: what follows on the wire can't be answered before it. Should it fail, what
   * follows would run on its own, so the connection goes down with it.
   */
  begin(text: string): Promise<unknown> {
    this.#beginning = this.control(text).then(
      () => {
        this.#beginning = undefined
      },
      (error: unknown) => {
        this.#beginning = undefined
        this.connection.discard('BEGIN failed on it')
        return error
      },
    )
    return this.#beginning
  }

  /** What a failed statement is reported as. */
  failure(error: unknown): unknown {
    const cancelReason = this.#holder.scope.cancelReason ?? this.reclaimedBy
    if (this.#isLost(error)) return cancelReason ?? this.#lost(error)
    if (cancelReason !== undefined && (error as { code?: unknown }).code === '57014') {
      cancelReason.cause ??= error
      return cancelReason
    }
    return staleFence(error) ?? this.connection.unsendable.explain(error)
  }

  /**
   * Cancels what is in flight, and nothing else: until this has resolved nothing more is sent. A connection that can't be
   * told to stop is discarded.
   */
  cancelInFlight(): Promise<void> {
    this.#cancelling ??= outsideEveryScope(() => this.#cancel()).finally(() => {
      this.#cancelling = undefined
      this.#holder.settled(this)
    })
    return this.#cancelling
  }

  /** Cancels one statement. Others behind it on the connection could be hit instead, so it waits until it is alone. */
  async cancelStatement(isActive: () => boolean): Promise<void> {
    while (isActive() && this.#inFlight > 1) await this.#progress()
    if (isActive() && this.#inFlight === 1) await this.cancelInFlight()
  }

  async #cancel(): Promise<void> {
    // Were BEGIN cancelled instead, the statement behind it would run in autocommit.
    await this.#beginning
    for (let attempt = 0; this.#inFlight > 0 && !this.connection.isGone; attempt++) {
      if (attempt === CANCEL_ATTEMPTS) return this.connection.discard('what it ran could not be cancelled')
      try {
        await this.connection.cancel()
      } catch {
        return this.connection.discard('what it ran could not be cancelled')
      }
      // The request may have come before the statement did: then it went unheard, and is repeated.
      if (this.#inFlight > 0) await Promise.race([this.#progress(), delay(CANCEL_AGAIN_MS)])
    }
  }

  /** What it runs is being cancelled; see `whenReady`. */
  get isCancelling(): boolean {
    return this.#cancelling !== undefined
  }

  /** Resolves when there is no cancellation under way. */
  async whenReady(): Promise<void> {
    while (this.#cancelling !== undefined) await this.#cancelling
  }

  /** Resolves when nothing is in flight any more. */
  async whenSettled(): Promise<void> {
    while (this.#inFlight > 0 && !this.connection.isGone) await this.#progress()
  }

  inspect(now: number): void {
    const { leakThresholdMs } = this.#holder
    const statementTimeoutMs = this.#ownStatementTimeout ? 0 : this.#holder.statementTimeoutMs
    const silentMs = this.#inFlight > 0 ? now - this.#lastStartedAt : 0
    if (statementTimeoutMs > 0 && this.#hold !== 'cursor' && silentMs > statementTimeoutMs + ANSWER_GRACE_MS) {
      this.connection.discard(`no answer came within ${Math.round(silentMs)} ms, past the statement timeout`)
    }
    const cannotYield = this.#hold !== undefined || this.#sessionState
    if (leakThresholdMs === 0 || this.#reportedAsLeak || !cannotYield || now - this.#heldSince < leakThresholdMs) return
    this.#reportedAsLeak = true
    const lease = this.describe()
    publish('reqscope:lease:leaking', () => ({ lease }))
    this.#holder.warn(
      { lease },
      `a lease has not been able to yield for more than ${leakThresholdMs} ms: is it leaking?`,
    )
  }

  /** Told when the holder has given it back; it is as good as that when it can yield again. */
  returned(): void {
    if (!this.#reportedAsLeak) return
    this.#reportedAsLeak = false
    const lease = this.describe()
    publish('reqscope:lease:returned-late', () => ({ lease }))
    this.#holder.warn({ lease }, 'a lease that was reported as leaking has been returned after all')
  }

  describe(): LeaseDescription {
    const { scope, resource } = this.#holder
    return {
      resource,
      scope: { id: scope.id, kind: scope.kind, name: scope.name },
      backend: this.connection.backend,
      state: this.#hold ?? (this.#sessionState ? 'session' : this.#inFlight > 0 ? 'active' : 'idle'),
      heldMs: Math.round(performance.now() - this.#since),
      statement: this.#lastText,
      site: this.site?.toString(),
    }
  }

  #settle(): void {
    this.#inFlight--
    this.#onProgress?.()
    if (this.#inFlight > 0) return
    this.connection.unsendable.forget()
    this.#settledAt = this.connection.idleSince = performance.now()
    this.#holder.settled(this)
  }

  #progress(): Promise<void> {
    return new Promise((resolve) => {
      const before = this.#onProgress
      this.#onProgress = () => {
        this.#onProgress = undefined
        before?.()
        resolve()
      }
    })
  }

  /** Whether it failed because its connection did. A socket fails a moment before it closes: nothing more is sent meanwhile. */
  #isLost(error: unknown): boolean {
    if (isConnectionLoss(error)) this.connection.discard('the connection failed')
    return this.connection.isGone
  }

  #lost(cause: unknown, outcome?: 'unknown'): Error {
    const idleInTransaction = this.#hold === 'transaction' && this.#inFlight === 0 && this.#settledAt > 0
    return this.connection.lostError({ cause, ...(outcome !== undefined && { outcome }), idleInTransaction })
  }

  #noteTags(result: unknown, statement: Statement<unknown>): void {
    const { command } = result as TaggedResult
    if (command !== undefined) {
      if (!PLAIN.has(command)) this.#noteTag(command, statement)
      return
    }
    if (!Array.isArray(result)) return
    for (const each of result as TaggedResult[]) {
      if (each?.command !== undefined && !PLAIN.has(each.command)) this.#noteTag(each.command, statement)
    }
  }

  #noteTag(command: string, statement: Statement<unknown>): void {
    const effect = effectOfTag(command)
    // COMMIT in the middle of a string of statements: what follows in "the transaction" would be on its own.
    if (effect === 'transaction-control') this.connection.discard(`a statement text contained ${command}`)
    else if (effect !== 'none') this.noteEffect(effect)
    // A SET that its text hides; a reset costs little.
    else if (command === 'SET' && statement.effect === 'none' && !setsLocally(statement.text)) this.noteSessionState()
  }
}

/** A cursor or a COPY stream occupies its connection: what is sent behind it would wait for it, perhaps for ever. */
export function cursorIsOpen(resource: string): SharedConnectionError {
  return new SharedConnectionError({
    resource,
    operation: 'A statement while a cursor or stream is open on the same connection',
    instead: 'read it to its end first, or run the one of them outside of the transaction.',
  })
}

function lastTagOf(result: TaggedResult | TaggedResult[]): string {
  const last = Array.isArray(result) && !('command' in result) ? result.at(-1) : (result as TaggedResult)
  return last?.command ?? ''
}

interface TaggedResult {
  readonly command?: string
}

const PLAIN: ReadonlySet<string | null> = new Set(['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'MERGE', null])
