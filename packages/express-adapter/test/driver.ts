import { once } from 'node:events'
import { createServer, type Server, ServerResponse } from 'node:http'
import express, { type Express, type Request, type RequestHandler, type Response } from 'express'
import express4 from 'express4'
import type { ContractRoute, Exchange, HttpDriver, RawReply } from '../../core/test/http-contract/index.ts'
import {
  concurrency,
  health,
  onShutdown,
  rateLimit,
  reqscope,
  reqscopeErrors,
  scopeOptions,
  transactional,
} from '../src/index.ts'

export const frameworks = [
  { name: 'Express 5', express },
  { name: 'Express 4', express: express4 },
] as const

export type Framework = typeof express

/** Express, for the contract that every HTTP adapter keeps. */
export function expressDriver(name: string, framework: Framework): HttpDriver {
  return {
    name,
    handlerTimeouts: false,
    http2: false,
    limits: true,
    inject: false,
    async start({ scopes, routes, connectionTimeoutMs, closeTimeoutMs, health: hasHealth }) {
      await scopes.start()
      const app = framework()
      if (hasHealth === true) app.use(health())
      app.use(reqscope({ scopes }))
      for (const route of routes) declare(app, route, framework.json())
      app.use(reqscopeErrors())
      const server = createServer(app)
      if (connectionTimeoutMs !== undefined) server.setTimeout(connectionTimeoutMs)
      const close = onShutdown(server, closeTimeoutMs === undefined ? {} : { closeTimeoutMs })
      return { port: await listening(server), close }
    },
  }
}

export async function listening(server: Server): Promise<number> {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return (server.address() as { port: number }).port
}

function declare(app: Express, route: ContractRoute, parseBody: RequestHandler): void {
  const { method, path, transaction, timeoutMs, onAbort } = route
  const more = { ...(timeoutMs === undefined ? {} : { timeoutMs }), ...(onAbort === undefined ? {} : { onAbort }) }
  const handler = handlerOf(route)
  app[method === 'GET' ? 'get' : 'post'](
    path,
    scopeOptions(more),
    ...(route.rateLimit === undefined ? [] : [rateLimit(route.rateLimit)]),
    ...(route.concurrency === undefined ? [] : [concurrency(route.concurrency)]),
    parseBody,
    transaction === true ? transactional(handler) : handler,
  )
}

/** What a handler of the contract returns is its reply, as JSON. */
function handlerOf(route: ContractRoute): RequestHandler {
  return (request, response, next) => {
    let isTaken = false
    const exchange = exchangeOf(request, response, next, () => (isTaken = true))
    const result = route.handle(exchange)
    if (!(result instanceof Object && 'then' in result)) {
      if (result !== undefined && result !== response) response.json(result)
      return undefined
    }
    return (result as Promise<unknown>).then((value) => {
      if (isTaken || response.headersSent || value === response) return
      if (value === undefined) response.end()
      else response.json(value)
    })
  }
}

function exchangeOf(request: Request, response: Response, next: (error: unknown) => void, take: () => void): Exchange {
  return {
    scope: request.scope as unknown as Exchange['scope'],
    body: request.body,
    raw: aroundTheGate(response),
    status: (code) => void response.status(code),
    send: (value) => void response.json(value),
    stream(source) {
      // What a user of pipe has to do: it passes on neither errors nor the end of the connection.
      source.on('error', (error) => (response.headersSent ? response.destroy() : next(error)))
      response.on('close', () => source.destroy())
      return source.pipe(response.type('text/plain'))
    },
    takeOver() {
      take()
      return aroundTheGate(response)
    },
  }
}

/** In Express the response is the raw one. This is what has kept its methods from before: node's own. */
function aroundTheGate(response: Response): RawReply {
  const { writeHead, write, end } = ServerResponse.prototype
  return {
    get destroyed() {
      return response.destroyed
    },
    writeHead: writeHead.bind(response) as RawReply['writeHead'],
    write: write.bind(response) as RawReply['write'],
    end: end.bind(response) as RawReply['end'],
  }
}
