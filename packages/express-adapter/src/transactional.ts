import { InvalidOptionError } from '@reqscope/core'
import { type CommitRules, readCommitRules } from '@reqscope/core/http'
import type { Request, RequestHandler } from 'express'
import { needsScope } from './order.ts'
import { requireLife } from './request-life.ts'
import type { TransactionalOptions } from './types.ts'

// The defaults of Express' own types.
type Params = Request['params']
// biome-ignore lint/suspicious/noExplicitAny: as Express has it
type Any = any
type AnyRecord = Record<string, Any>

/** A handler of a route, with the types Express gives it; what it returns is awaited, and otherwise ignored. */
type Handler<P, ResBody, ReqBody, Query, Locals extends AnyRecord> = (
  ...args: Parameters<RequestHandler<P, ResBody, ReqBody, Query, Locals>>
) => unknown

/** As a middleware: what comes after it in the route, or behind it on a router, runs in the transaction. */
export function transactional(options?: TransactionalOptions): RequestHandler
/**
 * Runs a handler in a transaction that is committed before the response's head is written, whoever writes it: `res.json`,
 * `send`, `redirect`, `sendFile`, `write`, `end`, a stream that is piped. Rolled back when the handler throws or passes on an error,
 * or the status is 400 or above. When the commit fails, that error is passed on in the reply's stead.
 *
 * @throws InvalidOptionError naming the option that is wrong.
 */
export function transactional<
  P = Params,
  ResBody = Any,
  ReqBody = Any,
  Query = Request['query'],
  Locals extends AnyRecord = AnyRecord,
>(handler: Handler<P, ResBody, ReqBody, Query, Locals>): RequestHandler<P, ResBody, ReqBody, Query, Locals>
export function transactional<
  P = Params,
  ResBody = Any,
  ReqBody = Any,
  Query = Request['query'],
  Locals extends AnyRecord = AnyRecord,
>(
  options: TransactionalOptions,
  handler: Handler<P, ResBody, ReqBody, Query, Locals>,
): RequestHandler<P, ResBody, ReqBody, Query, Locals>
export function transactional(...args: readonly unknown[]): unknown {
  const handlerIsFirst = typeof args[0] === 'function'
  const rules = readCommitRules(
    handlerIsFirst ? {} : ((args[0] as TransactionalOptions | undefined) ?? {}),
    'transactional',
  )
  const handler = handlerIsFirst ? args[0] : args[1]
  if (args.length > (handlerIsFirst ? 1 : 2) || (args.length === 2 && typeof handler !== 'function')) {
    throw new InvalidOptionError('transactional', handler, 'a handler, which comes last, or nothing')
  }
  return handler === undefined ? middleware(rules) : wrapped(handler as RequestHandler, rules)
}

function middleware(rules: CommitRules): RequestHandler {
  const transactional: RequestHandler = function transactional(request, response, next) {
    requireLife(request, 'transactional()').handleInTransaction(rules, goOn, request, response, next)
  }
  return needsScope(transactional, 'transactional()')
}

const goOn = (_request: Request, _response: unknown, next: () => void): void => next()

function wrapped(handler: RequestHandler, rules: CommitRules): RequestHandler {
  const handleInTransaction: RequestHandler = function handleInTransaction(request, response, next) {
    const life = requireLife(request, 'transactional(handler)')
    return life.handleInTransaction(rules, handler, request, response, next as never) as undefined
  }
  return needsScope(handleInTransaction, 'transactional(handler)')
}
