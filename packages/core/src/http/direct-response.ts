import { RegistrationError, type ReqscopeError } from '../errors.ts'
import { currentContext, runInContext } from '../scope/current.ts'
import type { Scope } from '../scope/scope.ts'
import { type GatedResponse, HeadGate, type HeadWatch } from './head-gate.ts'
import { type RawResponse, ResponseLifetime } from './response-lifetime.ts'
import { type CommitRules, TransactionBeforeHead } from './transaction-before-head.ts'

/** Goes on: to whatever is next, or with an error to whoever answers errors. */
export type Next = (error?: unknown) => void

/** A handler that writes its response itself. */
export type DirectHandler<Request, Response> = (request: Request, response: Response, next: Next) => unknown

const NO_FRAMEWORK = { forwardsRejections: false }

/** Whether what a handler passes on is an error. Express and its kind take some words for directions. */
function isFailure(passedOn: unknown): boolean {
  return passedOn != null && passedOn !== 'route' && passedOn !== 'router'
}

/**
 * The life of a request whose handlers write the response themselves, one after the other: `node:http`, Express and
 * their kind.
 */
export class DirectResponse extends ResponseLifetime implements HeadWatch {
  #gate: HeadGate | undefined
  #next: Next | undefined
  #running = 0
  #calls = 0
  // The last handler that was called has returned no promise: it may reply from a callback.
  #awaitsCallback = false
  #hasFailed = false
  // The error that is on its way to whoever answers errors; handlers inside each other all see it pass.
  #passing: unknown
  #answeredFor = false
  #watchesDeadline = false

  constructor(scope: Scope, response: RawResponse, settleTimeoutMs: number) {
    super(scope, response, settleTimeoutMs)
  }

  /**
   * Calls a handler in the scope, in its transaction where it has one, and follows it until it settles.
   *
   * @param next what the handler is to go on with. It is called with what the handler throws, too, after a transaction has
   *   been rolled back.
   * @param framework whether `next` is called with what the returned promise rejects with, as Express 5 does it.
   */
  handle<Request, Response>(
    handler: DirectHandler<Request, Response>,
    request: Request,
    response: Response,
    next: Next,
    framework: { readonly forwardsRejections: boolean } = NO_FRAMEWORK,
  ): unknown {
    const call = ++this.#calls
    this.#awaitsCallback = false
    let isOver = false
    const goOn: Next = (passedOn) => {
      if (!isFailure(passedOn)) {
        this.within(() => next(passedOn))
      } else if (!isOver) {
        isOver = true // a handler may throw what it has passed on
        this.#fail(passedOn, next)
      }
    }
    let result: unknown
    try {
      result =
        this.transaction === undefined && currentContext()?.scope === this.scope
          ? handler(request, response, goOn)
          : this.within(() => handler(request, response, goOn))
    } catch (error) {
      goOn(error ?? new Error('a handler threw nothing'))
      return undefined
    }
    if (!isPromise(result)) {
      if (this.#calls === call) this.#awaitsCallback = true
      return undefined
    }
    this.#begin()
    // Nobody but the framework needs to see this rejection: there is nothing to be done, or kept back, before.
    const isForwarded = framework.forwardsRejections && this.transaction === undefined && !this.#watchesDeadline
    result.then(this.#onSettled, (error: unknown) => {
      if (isForwarded) {
        this.#hasFailed = true
        this.handlerFailed(error)
      } else {
        goOn(error ?? new Error('a handler rejected with nothing'))
      }
      this.#settled()
    })
    return isForwarded ? result : undefined
  }

  /**
   * The same in a transaction, which is committed before the head is written, whoever writes it; `next` is called with
   * what the commit throws. Handlers that come later are in the transaction, too.
   *
   * @throws RegistrationError when the request has a transaction already.
   */
  handleInTransaction<Request, Response>(
    rules: CommitRules,
    handler: DirectHandler<Request, Response>,
    request: Request,
    response: Response,
    next: Next,
  ): unknown {
    if (this.transaction !== undefined) {
      throw new RegistrationError(
        `${this.scope.name} is transactional twice. Its transaction is the whole request's: say it once, on the route or on its router.`,
      )
    }
    this.transaction = new TransactionBeforeHead(this.scope, rules)
    this.#next = next
    this.#gate = new HeadGate(this.response as unknown as GatedResponse, this)
    return this.handle(handler, request, response, next)
  }

  /** Calls `fn` in the scope, and in the transaction of the request. */
  override within<Result>(fn: () => Result): Result {
    if (this.transaction !== undefined) return this.transaction.run(fn)
    return currentContext()?.scope === this.scope ? fn() : runInContext(this.scope, fn)
  }

  /** @param next is called with a DeadlineExceededError when the handler has not answered soon after its deadline. */
  answerAfterDeadline(next: Next): void {
    if (!this.#watchesDeadline) this.watchDeadline()
    this.#watchesDeadline = true
    this.#next = next
  }

  protected override answerDeadline(reason: ReqscopeError): void {
    if (this.#gate?.keepsReply || this.#hasFailed || this.#next === undefined) return
    const next = this.#next
    this.#fail(reason, (error) => {
      next(error)
      // From here on the handler speaks to nobody; what it wants to say would throw where nobody catches it.
      if (this.response.writableEnded) mute(this.response)
      else (this.response as unknown as NodeJS.EventEmitter).once('finish', () => mute(this.response))
    })
    this.#answeredFor = true
  }

  /** For the gate: what the head waits for. It counts as running, because the scope must not end under it. */
  settle(statusCode: number): Promise<void> | undefined {
    const settling = this.transaction?.settle(statusCode)
    if (settling !== undefined) this.#begin()
    return settling
  }

  /** For the gate. */
  passed(): void {
    this.#settled()
  }

  /** For the gate. */
  refused(error: unknown): void {
    this.#hasFailed = true
    this.#answeredFor = true
    this.#passing = error
    this.handlerFailed(error)
    runInContext(this.scope, () => this.#next?.(error))
    this.#settled()
  }

  #fail(error: unknown, next: Next): void {
    if (this.#hasFailed && error === this.#passing) {
      next(error)
      return
    }
    this.handlerFailed(error)
    if (this.#answeredFor || this.#gate?.keepsReply || (this.#gate !== undefined && this.response.writableEnded)) {
      this.scope.log.warn({ err: error }, `a handler of ${this.scope.name} failed after its request had been answered`)
      return
    }
    this.#hasFailed = true
    this.#passing = error
    if (this.transaction === undefined) {
      this.within(() => next(error))
      return
    }
    // Before whoever answers errors sees this one, and outside of the transaction, where they have no business.
    this.#begin()
    void this.transaction
      .rollback()
      .then(() => runInContext(this.scope, () => next(error)))
      .finally(() => this.#settled())
  }

  #begin(): void {
    this.#running++
    if (this.#running === 1) this.handlerStarted()
  }

  readonly #onSettled = () => this.#settled()

  #settled(): void {
    if (this.#running === 1 && this.#isFinishedUnheard()) {
      void this.#settleUnheard()
      return
    }
    if (--this.#running > 0) return
    this.handlerSettled(!this.isHandedOver() && (this.#awaitsCallback || this.#hasFailed))
  }

  // Nobody is there to be told any more, and the handler has noticed: what it finished is kept all the same.
  #isFinishedUnheard(): boolean {
    const { transaction } = this
    if (transaction === undefined || transaction.isSettling || !this.closed) return false
    return !this.#awaitsCallback && !this.#hasFailed && !this.isHandedOver()
  }

  async #settleUnheard(): Promise<void> {
    try {
      await this.transaction?.settle(this.response.statusCode)
    } catch (error) {
      this.handlerFailed(error)
      const level = this.scope.cancelReason === undefined ? 'error' : 'debug'
      this.scope.log[level]({ err: error }, `the work of ${this.scope.name}, whose client had gone, was not committed`)
    }
    this.#settled()
  }
}

function isPromise(result: unknown): result is PromiseLike<unknown> {
  return typeof result === 'object' && result !== null && typeof (result as { then?: unknown }).then === 'function'
}

function mute(response: object): void {
  const nothing = () => response
  Object.assign(response, {
    ...{ setHeader: nothing, appendHeader: nothing, removeHeader: nothing, writeHead: nothing },
    ...{ flushHeaders: nothing, write: () => true, end: nothing },
  })
}
