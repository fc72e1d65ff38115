import { randomUUID } from 'node:crypto'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { Scopes } from '@reqscope/core'
import {
  ConnectionCloser,
  DirectResponse,
  onAbortOf,
  problemDetails,
  readCommitRules,
  typedErrorOf,
} from '@reqscope/core/http'

export interface Route {
  readonly transaction?: boolean
  readonly timeoutMs?: number
  handle(request: IncomingMessage, response: ServerResponse): unknown
}

const RULES = readCommitRules({}, 'transaction')

/** Serves `routes`, by method and path: `{ 'GET /orders': { handle } }`. Handlers find their scope with `currentScope()`. */
export function serve(scopes: Scopes<never>, routes: Readonly<Record<string, Route>>): Server {
  return createServer((request, response) => {
    const name = `${request.method} ${request.url?.split('?', 1)[0]}`
    const route = routes[name]
    const answerError = (error?: unknown) => {
      const typed = typedErrorOf(error)
      if (typed === undefined) scopes.logger.error({ err: error }, 'a request failed')
      if (response.headersSent) return response.destroy()
      const { statusCode, headers, body } = typed ? problemDetails(typed) : { statusCode: 500, headers: {}, body: {} }
      return response.writeHead(statusCode, headers).end(JSON.stringify(body))
    }
    if (route === undefined) return void response.writeHead(404).end()
    try {
      const scope = scopes.open({
        ...{ id: randomUUID(), kind: 'request', name, onAbort: onAbortOf(request.method) },
        timeoutMs: route.timeoutMs,
      })
      const life = new DirectResponse(scope, response, scopes.settleTimeoutMs)
      if (route.timeoutMs !== undefined) life.answerAfterDeadline(answerError)
      if (route.transaction) life.handleInTransaction(RULES, route.handle, request, response, answerError)
      else life.handle(route.handle, request, response, answerError)
    } catch (error) {
      answerError(error) // the application is shutting down
    }
  })
}

/** Takes no more work, lets open scopes finish, closes the resources. Call it before there are connections, and then what it returns. */
export function closing(server: Server, scopes: Scopes<never>, timeoutMs = 10_000): () => Promise<void> {
  const connections = new ConnectionCloser(server)
  return async () => {
    const closed = new Promise((resolve) => server.close(resolve))
    connections.start(timeoutMs)
    await Promise.all([scopes.close({ timeoutMs }), closed])
    connections.stop()
  }
}
