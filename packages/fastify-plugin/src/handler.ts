import { tryCurrentScope } from '@reqscope/core'
import { type CommitRules, runInContext, TransactionBeforeHead } from '@reqscope/core/http'
import type { FastifyInstance, FastifyReply, FastifyRequest, RouteHandlerMethod } from 'fastify'
import { lifeOf, type RequestLife } from './request-life.ts'

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
    await transaction.rollback(error) // before the user's error handler sees the error
    if (life.isAnsweredFor) return unheard(life, error)
    throw error
  }
  if (life.isAnsweredFor) return unheard(life)
  // Fastify may not answer a client that is gone, and then nothing else would settle what the handler has finished.
  if (life.isBeyondReply) await transaction.settle(reply.statusCode)
  return payload
}

// Fastify would answer a second time: so it never comes to know that the handler has settled after all.
function unheard(life: RequestLife, error?: unknown): Promise<never> {
  if (error !== undefined) life.scope.log.debug({ err: error }, 'a handler failed after its request had been answered')
  life.handlerSettled(false)
  return new Promise(() => {})
}

/** An `onSend` hook, the route's last: the head is written after it. */
export function commitBeforeHead(
  request: FastifyRequest,
  reply: FastifyReply,
  payload: unknown,
  done: (error?: Error | null) => void,
): Promise<void> | undefined {
  const settling = lifeOf(request)?.transaction?.settle(reply.statusCode)
  if (settling === undefined) {
    done()
    return undefined
  }
  return settling.catch((error: unknown) => {
    // Whatever status the handler had chosen was for a success.
    reply.code((error as { statusCode?: number }).statusCode ?? 500)
    destroyStream(payload)
    throw error
  })
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
