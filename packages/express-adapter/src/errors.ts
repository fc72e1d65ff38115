import { logLevelOf, problemDetails, typedErrorOf } from '@reqscope/core/http'
import type { ErrorRequestHandler } from 'express'
import { answersErrors } from './order.ts'
import { lifeOf } from './request-life.ts'

/**
 * Answers typed errors with `application/problem+json`, and passes all others on: `app.use(reqscopeErrors())`, after all routes.
 *
 * Error handlers of the application's own that come before it see every error first.
 */
export function reqscopeErrors(): ErrorRequestHandler {
  const middleware: ErrorRequestHandler = function answerTypedErrors(error, request, response, next) {
    const typed = typedErrorOf(error)
    const life = lifeOf(request)
    life?.handlerFailed(error)
    if (typed === undefined || response.headersSent) {
      next(error)
      return
    }
    const { statusCode, headers, body } = problemDetails(typed)
    life?.scope.log[logLevelOf(typed)]({ err: typed }, typed.message)
    response
      .status(statusCode)
      .set(headers)
      .end(request.method === 'HEAD' ? undefined : JSON.stringify(body))
  }
  return answersErrors(middleware)
}
