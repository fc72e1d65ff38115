import { DeadlineExceededError, type ReqscopeError, type Scope } from '@reqscope/core'
import { type RefusalAnswer, ResponseLifetime } from '@reqscope/core/http'
import type { FastifyReply, FastifyRequest } from 'fastify'

const life = Symbol('reqscope.life')
/** Where a request keeps its life; a symbol, so that it is out of everybody's way. */
export const requestLife: typeof life = life

type LivingRequest = FastifyRequest & { [life]?: RequestLife | null }

/** The life of a request; undefined where it has none. */
export function lifeOf(request: FastifyRequest): RequestLife | undefined {
  return (request as LivingRequest)[life] ?? undefined
}

/** What Fastify knows of a request's life. */
export class RequestLife extends ResponseLifetime {
  readonly #reply: FastifyReply
  #replying = false
  #answeredFor = false

  constructor(scope: Scope, request: FastifyRequest, reply: FastifyReply, settleTimeoutMs: number) {
    super(scope, reply.raw, settleTimeoutMs)
    this.#reply = reply
    ;(request as LivingRequest)[life] = this
  }

  /** Follows the promise that a handler returned. */
  track(promise: PromiseLike<unknown>): void {
    this.handlerStarted()
    promise.then(
      (payload) => this.handlerSettled(this.#repliesWith(payload)),
      (error) => {
        this.handlerFailed(error)
        this.handlerSettled(!this.#reply.sent)
      },
    )
  }

  /** Whether nobody is there any more to be told the handler's result, and nobody else has answered either. */
  get isBeyondReply(): boolean {
    const { sent, raw } = this.#reply
    return !sent && !raw.headersSent && (this.closed || !this.#isConnected())
  }

  /** Answers with 504 when the deadline has passed and the handler does not say anything. */
  answerAfterDeadline(): void {
    const reply = this.#reply
    const send = reply.send.bind(reply)
    reply.send = (payload?: unknown) => {
      this.#replying = true
      return send(payload)
    }
    this.watchDeadline()
  }

  /** Whether an error is answered while the handler runs: a timeout, or its own doing. What it says later is not heard. */
  get isAnsweredFor(): boolean {
    return this.#answeredFor
  }

  /** An error is about to be answered. */
  answering(error: unknown): void {
    if (this.handlerIsRunning) this.#answeredFor = true
    if ((error as { code?: unknown } | null)?.code !== 'FST_ERR_HANDLER_TIMEOUT') return
    const timeoutMs = this.#reply.request.routeOptions.handlerTimeout
    const cancel = () =>
      this.scope.cancel(new DeadlineExceededError({ scope: this.scope.describe(), timeoutMs, cause: error }))
    // A rollback has to wait for the statement that runs. Elsewhere the handler's failure could overtake the answer.
    if (this.transaction !== undefined) cancel()
    else this.#reply.raw.once('close', cancel)
  }

  override setHeader(name: string, value: string): void {
    this.#reply.header(name, value)
  }

  /** Sends a whole answer, in the scope. */
  answer(statusCode: number, { headers, body }: RefusalAnswer): void {
    const reply = this.#reply
    reply.code(statusCode)
    for (const [name, value] of headers) reply.header(name, value)
    this.within(() => reply.send(body))
  }

  // The socket of an upgrade has no parser any more that would notice its end, and @fastify/websocket only destroys those
  // that came as far as its own hook.
  override turnedAway(): void {
    const { raw, request } = this.#reply
    if (request.raw.headers.upgrade === undefined) return
    this.#reply.header('connection', 'close')
    raw.once('finish', () => request.raw.socket.destroySoon())
  }

  protected override answerDeadline(reason: ReqscopeError): void {
    if (!this.#replying) this.#reply.send(reason)
  }

  protected override isHandedOver(): boolean {
    return this.#reply.sent || super.isHandedOver()
  }

  // As Fastify decides it when the handler's promise resolves.
  #repliesWith(payload: unknown): boolean {
    const { sent, raw } = this.#reply
    if (sent) return false
    if (payload === undefined) return !raw.headersSent && this.#isConnected()
    // A web stream that is read after the end of the connection is cancelled without a word.
    return !(this.closed && typeof (payload as { getReader?: unknown } | null)?.getReader === 'function')
  }

  #isConnected(): boolean {
    const { raw } = this.#reply.request
    return raw.aborted !== true && raw.socket != null && !raw.socket.destroyed
  }
}
