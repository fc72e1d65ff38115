import { type ReqscopeError, ScopeAbortedError } from '../errors.ts'
import { COMPLETED, type Outcome } from '../scope/cleanup-stack.ts'
import { outsideEveryScope, runInContext } from '../scope/current.ts'
import type { Scope } from '../scope/scope.ts'
import type { Passage } from './rate-limit-reply.ts'
import type { TransactionBeforeHead } from './transaction-before-head.ts'

/** What is needed of a response; `http.ServerResponse` and its HTTP/2 counterpart have it. */
export interface RawResponse {
  readonly statusCode: number
  readonly writableEnded: boolean
  readonly headersSent: boolean
  readonly socket?: unknown
  readonly req?: { on(event: 'close', listener: () => void): unknown }
  on(event: 'close', listener: () => void): unknown
  once(event: 'pipe', listener: () => void): unknown
  listenerCount(event: 'unpipe'): number
  setHeader(name: string, value: string): unknown
  end(...args: never[]): unknown
}

// How long a handler has to answer for itself once its deadline has passed and its statements were cancelled.
const DEADLINE_GRACE_MS = 250

const lifetime = Symbol('reqscope.lifetime')

type OwnedResponse = RawResponse & { [lifetime]?: ResponseLifetime }

/** The lifetime that owns a response; undefined where there is none. */
export function lifetimeOf(response: object | undefined): ResponseLifetime | undefined {
  return (response as OwnedResponse | undefined)?.[lifetime]
}

// How long work that follows the response may take: if one of its hooks fails, nobody tells us that the rest is left out.
const AFTERWARDS_MS = 1_000

// One function for all responses: an emitter calls it with itself as `this`, so a request needs no closure of its own.
function onClose(this: OwnedResponse): void {
  this[lifetime]?.responseClosed()
}

/**
 * Owns the life of a request's scope: it ends once, after the response was closed and the handler has settled.
 *
 * `'close'` of the raw response is the one event that comes in every ending. What a framework knows beyond that, an
 * adapter tells by calling {@link handlerStarted} and its counterparts and by overriding the protected members.
 */
export class ResponseLifetime {
  readonly scope: Scope
  readonly response: RawResponse
  /** The transaction of the route, where it has one. */
  transaction: TransactionBeforeHead | undefined
  /** What the request has consumed of its rate limits. */
  passage: Passage | undefined
  readonly #settleTimeoutMs: number
  #state: 'open' | 'closed' | 'over' = 'open'
  // `awaiting-reply` holds before the handler has started, for one that answers through a callback, and between a
  // handler's last word and the reply it leads to.
  #handler: 'awaiting-reply' | 'running' | 'settled' = 'awaiting-reply'
  #aborted = false
  #afterwards = false
  #watchedEnd: unknown
  #failure: { readonly error: unknown } | undefined
  #settleTimer: NodeJS.Timeout | undefined

  constructor(scope: Scope, response: RawResponse, settleTimeoutMs: number) {
    this.scope = scope
    this.response = response
    this.transaction = undefined
    this.passage = undefined
    this.#settleTimeoutMs = settleTimeoutMs
    ;(response as OwnedResponse)[lifetime] = this
    response.on('close', onClose)
    // A pipelined response has no socket yet and never closes if the connection is lost before its turn.
    if (response.socket === null) response.req?.on('close', () => this.#requestClosed())
  }

  /** Whether the response is closed, for whatever reason. */
  get closed(): boolean {
    return this.#state !== 'open'
  }

  /** Whether the response was closed before it was whole. */
  get aborted(): boolean {
    return this.#aborted
  }

  /** Whether the handler's promise is pending. */
  get handlerIsRunning(): boolean {
    return this.#handler === 'running'
  }

  /** The handler returned a promise; `handlerSettled` follows, or never does. */
  handlerStarted(): void {
    this.#handler = 'running'
  }

  /**
   * What the handler's promise stood for is done.
   *
   * @param repliesNow whether the framework goes on to answer with what the handler returned or threw.
   */
  handlerSettled(repliesNow: boolean): void {
    if (this.#handler === 'settled') return
    this.#handler = repliesNow ? 'awaiting-reply' : 'settled'
    if (this.#state !== 'closed') return
    if (repliesNow) this.watchForReply()
    this.#endWhenOver()
  }

  /** The response is finished, and the framework runs what is to be done afterwards; `afterwardsSettled` follows. */
  afterwardsStarted(): void {
    this.#afterwards = true
  }

  /** What the framework did after the response is done. */
  afterwardsSettled(): void {
    this.#afterwards = false
    this.#endWhenOver()
  }

  /** The handler threw, or its promise rejected. */
  handlerFailed(error: unknown): void {
    this.#failure ??= { error }
  }

  /** The reply was handed to the response; only asked for after `watchForReply`. */
  replied(): void {
    if (this.#handler === 'awaiting-reply') this.#handler = 'settled'
    this.#endWhenOver()
  }

  /** Calls `fn` in the scope. */
  within<Result>(fn: () => Result): Result {
    return runInContext(this.scope, fn)
  }

  /** Sets a header of the reply that is to come. */
  setHeader(name: string, value: string): void {
    this.response.setHeader(name, value)
  }

  /** The request is not let in, for this reason; whoever answers errors is told next. */
  turnedAway(_reason: unknown): void {}

  /** The framework has found the route: the scope is called after it. */
  routed(name: string): void {
    this.scope.rename(name)
  }

  /** What a route says of its scope, where it is known only after the scope was opened. */
  restrict(options: {
    readonly timeoutMs?: number | undefined
    readonly onAbort?: 'cancel' | 'finish' | undefined
  }): void {
    this.scope.restrict(options)
  }

  /** From now on `answerDeadline` is called when the deadline has passed and the handler does not say anything. */
  watchDeadline(): void {
    this.scope.signal.addEventListener('abort', this)
  }

  /** @internal The scope's signal fired. */
  handleEvent(): void {
    const reason = this.scope.signal.reason as ReqscopeError
    if (reason.code !== 'RSC_DEADLINE_EXCEEDED') return
    setTimeout(() => {
      if (!this.closed && !this.isHandedOver()) this.answerDeadline(reason)
    }, DEADLINE_GRACE_MS).unref()
  }

  /** The deadline has passed, and the time for the handler to answer for itself, too. */
  protected answerDeadline(_reason: ReqscopeError): void {}

  /** Whether somebody else writes the response, or it was sent already. */
  protected isHandedOver(): boolean {
    const { response } = this
    // A stream that is being piped into the response ends with it.
    return response.writableEnded || response.headersSent || response.listenerCount('unpipe') > 0
  }

  /** The response was closed with no reply to it yet: `replied` is called once there is one. */
  protected watchForReply(): void {
    const response = this.response as { end(...args: unknown[]): unknown }
    if (response.end === this.#watchedEnd) return
    const end = response.end.bind(response)
    response.end = (...args) => {
      const result = end(...args)
      this.replied()
      return result
    }
    this.#watchedEnd = response.end
    this.response.once('pipe', () => this.replied())
  }

  /** @internal */
  responseClosed(): void {
    if (this.#state !== 'open') return // inject() closes twice
    this.#state = 'closed'
    if (!this.response.writableEnded) {
      this.#aborted = true
      this.scope.clientGone()
    }
    this.#endWhenOver()
    if (this.#isOver()) return
    if (this.#handler === 'awaiting-reply') this.watchForReply()
    // A handler that has replied just now settles in this turn of the loop, and needs no timer.
    queueMicrotask(() => this.#startSettleTimer())
  }

  #startSettleTimer(): void {
    if (this.#isOver()) return
    const handlerHasTime = this.#settleTimeoutMs
    const giveUpMs = this.#onlyAfterwards() ? Math.min(AFTERWARDS_MS, handlerHasTime) : handlerHasTime
    this.#settleTimer = outsideEveryScope(() => setTimeout(() => this.#giveUp(giveUpMs), giveUpMs))
    this.#settleTimer.unref()
  }

  #requestClosed(): void {
    // After a body was read this comes in good times too; then the response gets its socket, or has had it.
    setImmediate(() => {
      const { destroyed } = (this.response.req as { socket?: { destroyed?: boolean } }).socket ?? { destroyed: true }
      if (destroyed === true) this.responseClosed()
    })
  }

  #isOver(): boolean {
    return this.#state === 'over'
  }

  #endWhenOver(): void {
    if (this.#state !== 'closed' || this.#handlerIsPending() || this.#afterwards) return
    this.#end(this.#outcome())
  }

  #handlerIsPending(): boolean {
    return this.#handler === 'running' || (this.#handler === 'awaiting-reply' && !this.isHandedOver())
  }

  #onlyAfterwards(): boolean {
    return this.#afterwards && !this.#handlerIsPending()
  }

  #giveUp(afterMs: number): void {
    if (this.#state !== 'closed') return
    const { scope } = this
    const error = new ScopeAbortedError({ scope: scope.describe(), reason: 'settle-timeout' })
    const pending = this.#onlyAfterwards() ? 'what follows the response' : 'the handler'
    scope.log.warn(
      { scope: scope.describe(), settleTimeoutMs: this.#settleTimeoutMs },
      `${pending} of ${scope.name} (${scope.id}) had not settled ${afterMs} ms after its response was closed; its scope is ended`,
    )
    scope.cancel(error)
    this.#end({ tag: 'aborted', error })
  }

  #end(outcome: Outcome): void {
    this.#state = 'over'
    if (this.#settleTimer !== undefined) clearTimeout(this.#settleTimer)
    if (this.transaction !== undefined) this.transaction.abandon(this.#whyNotCommitted())
    void this.scope.end(outcome)
  }

  #outcome(): Outcome {
    const { cancelReason } = this.scope
    if (this.#aborted || cancelReason !== undefined) {
      const error =
        this.#failure?.error ??
        cancelReason ??
        new ScopeAbortedError({ scope: this.scope.describe(), reason: 'client' })
      return { tag: 'aborted', error }
    }
    if (this.#failure !== undefined) return { tag: 'failed', error: this.#failure.error }
    if (this.response.statusCode >= 500) {
      return { tag: 'failed', error: new Error(`${this.scope.name} was answered with ${this.response.statusCode}`) }
    }
    return COMPLETED
  }

  #whyNotCommitted(): string {
    if (this.#failure !== undefined) return 'its handler failed after the reply was out of our hands'
    if (this.#aborted && !this.isHandedOver()) return 'its handler had not finished'
    return 'its reply was hijacked or written to the raw response, so the commit could not come before the head'
  }
}
