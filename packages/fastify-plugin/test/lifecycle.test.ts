import { currentScope, tryCurrentScope } from '@reqscope/core'
import { describe, expect, it, vi } from 'vitest'
import { Gate } from '../../core/test/gate.ts'
import reqscope from '../src/index.ts'
import { appWith, bareApp, memoryLogger, portOf, thingScopes } from './fixture.ts'

describe('the scope of a request', () => {
  it('is current in every hook, the handler and the serialization', async () => {
    const app = await appWith(thingScopes().scopes)
    const seen: Record<string, boolean> = {}
    const see = (where: string, request: { scope: unknown }) => {
      seen[where] = (tryCurrentScope() as unknown) === request.scope
    }
    app.addHook('onRequest', async (request) => see('onRequest', request))
    app.addHook('preParsing', async (request) => see('preParsing', request))
    app.addHook('preValidation', async (request) => see('preValidation', request))
    app.addHook('preHandler', async (request) => see('preHandler', request))
    app.addHook('preSerialization', async (request) => see('preSerialization', request))
    app.addHook('onSend', async (request) => see('onSend', request))
    app.addHook('onResponse', async (request) => see('onResponse', request))
    app.post('/', async (request) => {
      await null
      see('handler', request)
      return { done: true }
    })
    const port = await portOf(app)
    const body = JSON.stringify({ large: 'x'.repeat(500_000) })
    await fetch(`http://127.0.0.1:${port}/`, { method: 'POST', body, headers: { 'content-type': 'application/json' } })
    expect(seen).toEqual({
      onRequest: true,
      preParsing: true,
      preValidation: true,
      preHandler: true,
      handler: true,
      preSerialization: true,
      onSend: true,
      onResponse: true,
    })
  })

  it('is current in a handler behind a body parser that lost the context', async () => {
    const app = await appWith(thingScopes().scopes)
    const { AsyncResource } = await import('node:async_hooks')
    const elsewhere = new AsyncResource('a pool of parsers')
    app.addContentTypeParser('text/csv', (_request, payload, done) => {
      payload.resume().on('end', () => elsewhere.runInAsyncScope(() => done(null, 'parsed')))
    })
    app.post('/', (request) => ({ same: (tryCurrentScope() as unknown) === request.scope }))
    const answer = await app.inject({
      method: 'POST',
      url: '/',
      payload: 'a,b',
      headers: { 'content-type': 'text/csv' },
    })
    expect(answer.json()).toEqual({ same: true })
  })

  it("has the request's id, and so has what it logs", async () => {
    const { logger, logs } = memoryLogger()
    const { createScopes } = await import('@reqscope/core')
    const app = bareApp({
      loggerInstance: Object.assign(logger, { trace() {}, fatal() {}, level: 'info' }) as never,
      genReqId: () => 'the-id',
    })
    await app.register(reqscope, { scopes: createScopes({ resources: {} }) })
    app.get('/', async (request) => {
      request.scope.log.info({}, 'from the handler')
      return { id: request.scope.id, name: currentScope().name }
    })
    expect((await app.inject('/')).json()).toEqual({ id: 'the-id', name: 'GET /' })
    expect(logs.find(({ message }) => message === 'from the handler')?.facts).toMatchObject({
      reqId: 'the-id',
      scopeId: 'the-id',
    })
  })

  it('is named after the route and not after the URL', async () => {
    const app = await appWith(thingScopes().scopes)
    const name = (request: { scope: { name: string } }) => request.scope.name
    app.get('/songs/:id', name)
    app.route({ method: ['PUT', 'PATCH'], url: '/songs/:id', handler: name })
    app.setNotFoundHandler(name)
    expect((await app.inject('/songs/7')).body).toBe('GET /songs/:id')
    expect((await app.inject({ method: 'PATCH', url: '/songs/7' })).body).toBe('PATCH /songs/:id')
    expect((await app.inject('/nowhere')).body).toBe('GET (no route)')
  })

  it('leaves handlers their this, their arguments and their ways to answer', async () => {
    const app = await appWith(thingScopes().scopes)
    app.decorate('word', 'decorated')
    app.get('/this', function handle() {
      return (this as unknown as { word: string }).word
    })
    app.get('/sync', () => 'value')
    app.get('/null', async () => null)
    app.get('/sent', (_request, reply) => {
      reply.send('sent')
    })
    app.get('/returned', (_request, reply) => reply.code(202).send('returned'))
    app.get('/async-reply', async (_request, reply) => {
      setImmediate(() => reply.send('later'))
      return reply
    })
    const bodies = ['/this', '/sync', '/null', '/sent', '/returned', '/async-reply'].map(
      async (url) => (await app.inject(url)).body,
    )
    expect(await Promise.all(bodies)).toEqual(['decorated', 'value', 'null', 'sent', 'returned', 'later'])
    expect(app.scopes.snapshot().openScopes.total).toBe(0)
  })

  it('lasts until its onResponse hooks are done', async () => {
    const { scopes } = thingScopes()
    const app = await appWith(scopes)
    const ended: string[] = []
    const gate = new Gate()
    const waits = new Gate()
    app.addHook('onResponse', async (request) => {
      waits.open()
      await gate.passed
      expect(tryCurrentScope()).toBe(request.scope)
      ended.push('hook')
    })
    app.get('/', (request) => {
      request.scope.defer(({ tag }) => ended.push(tag))
      return 'answered'
    })
    expect((await app.inject('/')).body).toBe('answered')
    await waits.passed
    await new Promise((resolve) => setImmediate(resolve))
    expect(scopes.snapshot().openScopes.total).toBe(1)
    gate.open()
    await vi.waitFor(() => expect(ended).toEqual(['hook', 'completed']))
  })

  it('ends a second after the response where an onResponse hook fails, for nobody says so', async () => {
    const { scopes } = thingScopes()
    const app = await appWith(scopes)
    app.addHook('onResponse', async () => {
      throw new Error('a hook failed')
    })
    const signals: AbortSignal[] = []
    app.get('/', (request) => {
      signals.push(request.scope.signal)
      return 'answered'
    })
    expect((await app.inject('/')).body).toBe('answered')
    await vi.waitFor(() => expect(scopes.snapshot().openScopes.total).toBe(0), 5_000)
    expect(signals.map(({ aborted }) => aborted)).toEqual([true])
  })

  it('runs its clean-ups after the response, and tells them how it ended', async () => {
    const app = await appWith(thingScopes().scopes)
    const outcomes: string[] = []
    app.get('/:status', async (request, reply) => {
      request.scope.defer(({ tag }) => outcomes.push(tag))
      return reply.code(Number((request.params as { status: string }).status)).send({})
    })
    for (const status of [200, 404, 503]) await app.inject(`/${status}`)
    expect(outcomes).toEqual(['completed', 'completed', 'failed'])
  })
})
