import { tryCurrentScope } from '@reqscope/core'
import { type CommitRules, runInContext, TransactionBeforeHead } from '@reqscope/core/http'
import type { FastifyInstance, FastifyReply, FastifyRequest, RouteHandlerMethod } from 'fastify'
import { lifeOf, type RequestLife } from './request-life.ts'
import { NO_ROUTE, policyOf } from './route-config.ts'

type Handler = (this: FastifyInstance, request: FastifyRequest, reply: FastifyReply) => unknown

/** The handler, followed until it settles. What it returns, throws and sends is left as it is. */
export function trackedHandler(routeHandler: RouteHandlerMethod): RouteHandlerMethod {
  const handler = routeHandler as Handler
  const tracked: Handler = function handleInScope(request, reply) {
    const life = lifeOf(request)
    // None: the route has opted out, or this is a websocket's handler, called with the socket and the request.
    if (life === undefined) return handler.call(this, request, reply)
    let result: unknown
    try {
      result = isCurrent(life)
        ? handler.call(this, request, reply)
        : runInContext(life.scope, () => handler.call(this, request, reply))
    } catch (error) {
      life.handlerFailed(error)
      throw error
    }
    if (isPending(result, reply)) life.track(result)
    return result
  }
  return tracked as RouteHandlerMethod
}

/** The handler, run in a transaction: rolled back if it fails, else settled by `commitBeforeHead`. */
export function transactionalHandler(routeHandler: RouteHandlerMethod, rules: CommitRules): RouteHandlerMethod {
  const handler = routeHandler as Handler
  const transactional: Handler = function handleInTransaction(request, reply) {
    const life = lifeOf(request)
    if (life === undefined) return handler.call(this, request, reply)
    const transaction = new TransactionBeforeHead(life.scope, rules)
    life.transaction = transaction
    let result: unknown
    try {
      const run = () => transaction.run(() => handler.call(this, request, reply))
      result = isCurrent(life) ? run() : runInContext(life.scope, run)
    } catch (error) {
      result = Promise.reject(error)
    }
    if (!isPending(result, reply)) return result
    const settled = settleWith(result, transaction, life, reply)
    life.track(settled)
    return settled
  }
  return transactional as RouteHandlerMethod
}

async function settleWith(
  result: PromiseLike<unknown>,
  transaction: TransactionBeforeHead,
  life: RequestLife,
  reply: FastifyReply,
): Promise<unknown> {
  let payload: unknown
  try {
    payload = await result
  } catch (error) {
    await transaction.rollback() // before the user's error handler sees the error
    if (life.isAnsweredFor) return unheard(life, error)
    throw error
  }
  if (life.isAnsweredFor) return unheard(life)
  // Fastify may not answer a client that is gone, and then nothing else would settle what the handler has finished.
  if (life.isBeyondReply) await transaction.settle(statusOf(reply, payload))
  readInTransaction(payload, transaction)
  return payload
}

// Fastify would answer a second time: so it never comes to know that the handler has settled after all.
function unheard(life: RequestLife, error?: unknown): Promise<never> {
  if (error !== undefined) life.scope.log.debug({ err: error }, 'a handler failed after its request had been answered')
  life.handlerSettled(false)
  return new Promise(() => {})
}

/**
 * An `onSend` hook, the route's last: the head is written after it.
 *
 * A handler that calls `reply.send` brings the request's way on into its transaction. From here on that is over, so what
 * comes next, `onResponse` for one, runs in the scope outside of it.
 */
export function commitBeforeHead(
  request: FastifyRequest,
  reply: FastifyReply,
  payload: unknown,
  done: (error?: Error | null) => void,
): void {
  const life = lifeOf(request)
  const transaction = life?.transaction
  const settling = transaction?.settle(statusOf(reply, payload))
  if (life === undefined || transaction === undefined || settling === undefined) {
    done()
    return
  }
  readInTransaction(payload, transaction)
  const goOn = (error?: Error) => runInContext(life.scope, () => done(error))
  settling.then(
    () => {
      try {
        goOn()
      } catch (error) {
        goOn(error as Error) // as Fastify does it for a hook's promise: a payload that can't be sent
      }
    },
    (error: unknown) => {
      // Whatever status the handler had chosen was for a success.
      reply.code((error as { statusCode?: number }).statusCode ?? 500)
      destroyStream(payload)
      goOn(error as Error)
    },
  )
}

/**
 * An `onResponse` hook, the first: those that follow have the scope until they are done. The response may have been finished
 * by a stream of the handler's, and then its transaction is left here.
 */
export function enterOnResponse(request: FastifyRequest, _reply: FastifyReply, done: () => void): void {
  const life = lifeOf(request)
  if (policyOf(request) !== NO_ROUTE) life?.afterwardsStarted() // elsewhere no last hook says that they are
  if (life?.transaction === undefined) done()
  else runInContext(life.scope, done)
}

/** An `onResponse` hook, the route's last. */
export function leaveOnResponse(request: FastifyRequest, _reply: FastifyReply, done: () => void): void {
  lifeOf(request)?.afterwardsSettled()
  done()
}

// A stream is the handler's work whoever reads it: it must not slip out of the transaction because Fastify asks for more.
function readInTransaction(payload: unknown, transaction: TransactionBeforeHead): void {
  const stream = payload as { _read?: unknown } | null | undefined
  if (typeof stream !== 'object' || typeof stream?._read !== 'function') return
  const read = stream._read
  stream._read = function readInTransaction(this: unknown, size: number): unknown {
    return transaction.run(() => read.call(this, size))
  }
}

/** The status the client will see: Fastify takes that of a web `Response` only after the hooks. */
function statusOf(reply: FastifyReply, payload: unknown): number {
  return Object.prototype.toString.call(payload) === '[object Response]'
    ? (payload as { status: number }).status
    : reply.statusCode
}

// The reply becomes an error, so nobody will read the stream.
function destroyStream(payload: unknown): void {
  const stream = payload as Partial<NodeJS.ReadableStream & { destroy(): void }> | null | undefined
  if (typeof stream?.pipe !== 'function' || typeof stream.destroy !== 'function') return
  stream.on?.('error', () => {})
  stream.destroy()
}

// A body parser or a hook may have lost the context on the way to the handler.
function isCurrent(life: RequestLife): boolean {
  return (tryCurrentScope() as unknown) === life.scope
}

// `reply` is thenable, but stands for the response and not for the handler.
function isPending(result: unknown, reply: FastifyReply): result is PromiseLike<unknown> {
  return (
    typeof result === 'object' &&
    result !== null &&
    result !== reply &&
    typeof (result as { then?: unknown }).then === 'function'
  )
}
