import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify'
import type { ContractRoute, Exchange, HttpDriver, RawReply } from '../../core/test/http-contract/index.ts'
import reqscope from '../src/index.ts'

/** Fastify, for the contract that every HTTP adapter keeps. */
export const fastifyDriver: HttpDriver = {
  name: 'Fastify',
  handlerTimeouts: true,
  http2: true,
  limits: true,
  inject: true,
  async start({ scopes, routes, http2, connectionTimeoutMs, closeTimeoutMs, health }) {
    const options = { connectionTimeout: connectionTimeoutMs ?? 0 }
    const app = (http2 === true ? Fastify({ ...options, http2 }) : Fastify(options)) as unknown as FastifyInstance
    await app.register(reqscope, {
      scopes,
      health: health ?? false,
      ...(closeTimeoutMs === undefined ? {} : { closeTimeoutMs }),
    })
    for (const route of routes) declare(app, route)
    await app.listen({ port: 0, host: '127.0.0.1' })
    return {
      port: (app.server.address() as { port: number }).port,
      close: () => app.close(),
      inject: async ({ method, path }) => {
        const answer = await app.inject({ method: method as 'GET', url: path })
        return { status: answer.statusCode, body: answer.body }
      },
    }
  },
}

function declare(app: FastifyInstance, route: ContractRoute): void {
  const { method, path, transaction, timeoutMs, onAbort, rateLimit, concurrency, handlerTimeoutMs } = route
  app.route({
    method,
    url: path,
    ...(handlerTimeoutMs === undefined ? {} : { handlerTimeout: handlerTimeoutMs }),
    config: {
      scope: {
        ...(transaction === undefined ? {} : { transaction }),
        ...(timeoutMs === undefined ? {} : { timeoutMs }),
        ...(onAbort === undefined ? {} : { onAbort }),
        ...(rateLimit === undefined ? {} : { rateLimit }),
        ...(concurrency === undefined ? {} : { concurrency }),
      },
    },
    handler: (request, reply) => route.handle(exchangeOf(request, reply)) as never,
  })
}

function exchangeOf(request: FastifyRequest, reply: FastifyReply): Exchange {
  return {
    scope: request.scope as unknown as Exchange['scope'],
    body: request.body,
    raw: reply.raw as RawReply,
    status: (code) => void reply.code(code),
    send: (value) => void reply.send(value),
    stream: (source) => reply.type('text/plain').send(source),
    takeOver: () => reply.hijack().raw as RawReply,
  }
}
