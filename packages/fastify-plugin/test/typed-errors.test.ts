import { once } from 'node:events'
import { connect } from 'node:net'
import { setTimeout } from 'node:timers/promises'
import { OverloadedError, ScopeEndedError } from '@reqscope/core'
import Fastify, { type FastifyInstance } from 'fastify'
import { describe, expect, it, onTestFinished } from 'vitest'
import { Gate } from '../../core/test/gate.ts'
import reqscope from '../src/index.ts'
import { appWith, bareApp, portOf, thingScopes } from './fixture.ts'

const overloaded = () => new OverloadedError({ reason: 'overload', what: 'GET /', retryAfterMs: 1_500 })

function withFailingRoutes(app: FastifyInstance): FastifyInstance {
  app.get('/typed', async () => {
    throw overloaded()
  })
  app.get('/plain', async () => {
    throw new Error('plain')
  })
  app.get('/status', async () => {
    throw Object.assign(new Error('teapot'), { statusCode: 418, headers: { 'x-tea': 'yes' }, code: 'TEA' })
  })
  app.get('/text', async () => {
    throw 'just text'
  })
  app.get('/undefined', async () => {
    throw undefined
  })
  app.get('/sync', () => {
    throw new Error('at once')
  })
  app.get('/sent', (_request, reply) => {
    reply.code(422).send(new Error('sent'))
  })
  app.get('/valid/:n', { schema: { params: { type: 'object', properties: { n: { type: 'integer' } } } } }, () => 1)
  return app
}

describe('typed errors', () => {
  it('are answered as problem+json, with Retry-After', async () => {
    const app = withFailingRoutes(await appWith(thingScopes().scopes))
    const answer = await app.inject('/typed')
    expect(answer.statusCode).toBe(503)
    expect(answer.headers).toMatchObject({ 'retry-after': '2' })
    expect(answer.headers['content-type']).toMatch(/^application\/problem\+json/)
    expect(answer.json()).toMatchObject({ status: 503, code: 'RSC_OVERLOADED' })
  })

  it.each(['/plain', '/status', '/text', '/undefined', '/sync', '/sent', '/valid/x', '/nowhere'])(
    'leave other errors as Fastify answers them: %s',
    async (url) => {
      const ours = await withFailingRoutes(await appWith(thingScopes().scopes)).inject(url)
      const theirs = await withFailingRoutes(bareApp()).inject(url)
      const { date: _, ...headers } = theirs.headers
      expect([ours.statusCode, ours.body]).toEqual([theirs.statusCode, theirs.body])
      expect(ours.headers).toMatchObject(headers)
    },
  )

  it.each([
    {
      where: 'on the same instance, later',
      handler: async (handle: Handler) => {
        const app = await appWith(thingScopes().scopes)
        app.setErrorHandler(handle)
        return withFailingRoutes(app)
      },
    },
    {
      where: 'on a child',
      handler: async (handle: Handler) => {
        const app = await appWith(thingScopes().scopes)
        await app.register(async (child) => {
          child.setErrorHandler(handle)
          withFailingRoutes(child)
        })
        return app
      },
    },
    {
      where: 'on the same instance, before',
      handler: async (handle: Handler) => {
        const app = bareApp()
        app.setErrorHandler(handle)
        await app.register(reqscope, { scopes: thingScopes().scopes })
        return withFailingRoutes(app)
      },
    },
    {
      where: 'around the instance',
      handler: async (handle: Handler) => {
        const app = bareApp()
        app.setErrorHandler(handle)
        await app.register(async (child) => {
          await child.register(reqscope, { scopes: thingScopes().scopes })
          withFailingRoutes(child)
        })
        return app
      },
    },
  ])("are seen first by the user's error handler $where", async ({ handler }) => {
    const seen: unknown[] = []
    const app = await handler((error, _request, reply) => {
      seen.push(error)
      return reply.code(400).send({ mine: true })
    })
    const answer = await app.inject('/typed')
    expect([answer.statusCode, answer.json()]).toEqual([400, { mine: true }])
    expect(seen).toMatchObject([{ code: 'RSC_OVERLOADED' }])
    expect((await app.inject('/plain')).json()).toEqual({ mine: true })
  })

  it("become problem+json when the user's error handler passes them on", async () => {
    const app = await appWith(thingScopes().scopes)
    app.setErrorHandler((error, _request, reply) => reply.send(error))
    withFailingRoutes(app)
    expect((await app.inject('/typed')).json()).toMatchObject({ code: 'RSC_OVERLOADED', status: 503 })
    expect((await app.inject('/plain')).json()).toMatchObject({ message: 'plain', statusCode: 500 })
  })

  it("are known by the cause of an AbortError that a scope's signal led to", async () => {
    const app = await appWith(thingScopes().scopes)
    app.get('/waits', { config: { scope: { timeoutMs: 20 } } }, ({ scope }) =>
      setTimeout(60_000, undefined, { signal: scope.signal }),
    )
    const answer = await app.inject('/waits')
    expect(answer.statusCode).toBe(504)
    expect(answer.json()).toMatchObject({ code: 'RSC_DEADLINE_EXCEEDED' })
  })

  it("let a route's own error handler come first", async () => {
    const app = await appWith(thingScopes().scopes)
    const errorHandler: Handler = (_error, _request, reply) => reply.code(400).send({ mine: true })
    app.get('/', { errorHandler }, async () => {
      throw overloaded()
    })
    expect((await app.inject('/')).json()).toEqual({ mine: true })
  })

  it('leave setErrorHandler to the user, without a warning and where Fastify allows it only once', async () => {
    const warnings: unknown[] = []
    const listen = (warning: unknown) => void warnings.push(warning)
    process.on('warning', listen)
    onTestFinished(() => void process.off('warning', listen))
    for (const allowErrorHandlerOverride of [true, false]) {
      const app = await appWith(thingScopes().scopes, { allowErrorHandlerOverride })
      app.setErrorHandler((_error, _request, reply) => reply.send({ mine: true }))
      withFailingRoutes(app)
      expect((await app.inject('/typed')).json()).toEqual({ mine: true })
    }
    await new Promise((resolve) => setImmediate(resolve))
    expect(warnings).toEqual([])
  })

  it('do not reach instances that have no scopes', async () => {
    const app = bareApp()
    await app.register(async (child) => void (await child.register(reqscope, { scopes: thingScopes().scopes })))
    app.get('/', async () => {
      throw overloaded()
    })
    expect((await app.inject('/')).headers['content-type']).toBe('application/json; charset=utf-8')
  })

  it('tell a client nothing of the inside', async () => {
    const app = await appWith(thingScopes().scopes)
    app.get('/', async (request) => {
      throw new ScopeEndedError({ scope: request.scope, resource: 'db', takenAt: 'handler (/srv/secret.ts:1:1)' })
    })
    expect((await app.inject('/')).body).not.toContain('secret')
  })

  it('answer a request that comes while the application closes', async () => {
    const app = Fastify({ return503OnClosing: false })
    const { scopes } = thingScopes()
    await app.register(reqscope, { scopes })
    const [begun, finish] = [new Gate(), new Gate()]
    app.get('/slow', async () => {
      begun.open()
      await finish.passed
      return 'done'
    })
    app.get('/', async () => 'open')
    const socket = connect(await portOf(app), '127.0.0.1')
    socket.write('GET /slow HTTP/1.1\r\nhost: test\r\n\r\n')
    await begun.passed
    const closed = app.close()
    while (scopes.state === 'open') await new Promise((resolve) => setImmediate(resolve))
    socket.write('GET / HTTP/1.1\r\nhost: test\r\n\r\n')
    await new Promise((resolve) => setImmediate(resolve))
    finish.open()
    let received = ''
    socket.on('data', (chunk) => {
      received += chunk
    })
    await Promise.all([closed, once(socket, 'close')])
    expect(received).toContain('done')
    expect(received).toContain('503 Service Unavailable')
    expect(received).toContain('RSC_OVERLOADED')
  })
})

type Handler = Parameters<FastifyInstance['setErrorHandler']>[0]
