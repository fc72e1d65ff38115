import { RegistrationError } from '@reqscope/core'
import { logLevelOf, problemDetails, retryAfterSeconds, runInContext, typedErrorOf } from '@reqscope/core/http'
import type { FastifyError, FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { lifeOf } from './request-life.ts'

type ErrorHandler = FastifyInstance['errorHandler']

/**
 * Answers typed errors with problem+json, after every error handler of the user's that passes them on.
 *
 * `setErrorHandler` itself is the user's: Fastify warns about, or refuses, a second one on the same instance.
 *
 * @returns what stands in a route's context where no error handler comes before this one.
 * @throws RegistrationError when this Fastify keeps its error handler elsewhere than those we know.
 */
export function answerTypedErrors(app: FastifyInstance): object | undefined {
  // Fastify binds the handlers it is given; its own is not bound. One that is there already goes on seeing all errors first.
  if (app.errorHandler.name.startsWith('bound ')) return undefined
  const frameworks = app.errorHandler
  // Set on an object of its own, the handler is then put where the instance keeps its own, below what comes later.
  const shadow = Object.create(app) as FastifyInstance
  shadow.setErrorHandler((error, request, reply) => answerTypedError(frameworks, error, request, reply))
  const key = Object.getOwnPropertySymbols(shadow).find((symbol) => typeof at(shadow, symbol) === 'object')
  if (key !== undefined) Object.assign(app, { [key]: at(shadow, key) })
  if (key !== undefined && app.errorHandler !== frameworks) return at(shadow, key) as object
  throw new RegistrationError(
    `@reqscope/fastify-plugin does not know where Fastify ${app.version} keeps its error handler, so it could not answer ` +
      'typed errors. Use a version of Fastify that the plugin was tested with, and report this one.',
  )
}

const at = (object: object, key: symbol): unknown => (object as Record<symbol, unknown>)[key]

function answerTypedError(
  frameworks: ErrorHandler,
  error: unknown,
  request: FastifyRequest,
  reply: FastifyReply,
): FastifyReply | undefined {
  const typed = typedErrorOf(error)
  if (typed === undefined) {
    // Fastify hands a thrown Error to the next handler, its own, and takes anything else for a payload.
    if (error instanceof Error) throw error
    frameworks.call(request.server, error as FastifyError, request, reply)
    return undefined
  }
  const { statusCode, headers, body } = problemDetails(typed)
  const level = logLevelOf(typed)
  if (level === 'error') request.log.error({ err: typed, req: request }, typed.message)
  else request.log[level]({ err: typed }, typed.message)
  return reply.code(statusCode).headers(headers).send(JSON.stringify(body))
}

/**
 * An `onError` hook: it runs before every error handler, whatever failed.
 *
 * It does not wait for the rollback, `onSend` does: a reply that is sent while an `onError` hook is pending, by a timeout
 * for one, would be an uncaught exception.
 */
export function settleBeforeErrorHandlers(
  request: FastifyRequest,
  reply: FastifyReply,
  error: Error,
  done: () => void,
): void {
  const typed = typedErrorOf(error)
  if (typed !== undefined) {
    const retryAfter = retryAfterSeconds(typed)
    if (retryAfter !== undefined) reply.header('retry-after', String(retryAfter))
  }
  const life = lifeOf(request)
  life?.answering(error)
  if (life?.transaction === undefined) {
    done()
    return
  }
  void life.transaction.rollback()
  // The handler may have sent the error from within its transaction, where error handlers have no business.
  runInContext(life.scope, done)
}
