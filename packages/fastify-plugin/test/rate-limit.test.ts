import { randomUUID } from 'node:crypto'
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { once } from 'node:events'
import websocket from '@fastify/websocket'
import { createScopes, type Resources, tryCurrentScope } from '@reqscope/core'
import { redis } from '@reqscope/core/redis'
import { startRedis } from '@reqscope/services'
import { testRedis } from '@reqscope/services/testing'
import type { FastifyRequest } from 'fastify'
import { describe, expect, it, onTestFinished, vi } from 'vitest'
import WebSocket from 'ws'
import { CountedRedis } from '../../core/test/limits/counted-redis.ts'
import reqscope, { type ReqscopeOptions } from '../src/index.ts'
import { bareApp, portOf } from './fixture.ts'

type Options = Omit<Extract<ReqscopeOptions, { scopes: unknown }>, 'scopes'>

async function limitedApp(options: Options = {}, resources: Resources = {}, server = {}) {
  const app = bareApp(server)
  const scopes = createScopes({ resources })
  await app.register(reqscope, { scopes, ...options })
  return { app, scopes }
}

const statusesOf = async (count: number, ask: () => Promise<{ statusCode: number }>) => {
  const statuses = []
  for (let each = 0; each < count; each++) statuses.push((await ask()).statusCode)
  return statuses
}

describe('config.scope.rateLimit', () => {
  it('answers what passes with its limits, and what does not with 429 and why', async () => {
    const { app } = await limitedApp()
    const rateLimit = [
      { limit: 2, windowMs: 60_000, name: 'burst' },
      { limit: 1_000, windowMs: 86_400_000, name: 'daily' },
    ]
    app.get('/songs', { config: { scope: { rateLimit } } }, () => 'la')
    const passed = await app.inject('/songs')
    expect(passed.headers).toMatchObject({
      'ratelimit-policy': '"burst";q=2;w=60, "daily";q=1000;w=86400',
      ratelimit: '"burst";r=1;t=30, "daily";r=999;t=87',
    })
    await app.inject('/songs')
    const refused = await app.inject('/songs')
    expect(refused.statusCode).toBe(429)
    expect(refused.headers).toMatchObject({
      'content-type': 'application/problem+json; charset=utf-8',
      'ratelimit-policy': '"burst";q=2;w=60, "daily";q=1000;w=86400',
      ratelimit: '"burst";r=0;t=30, "daily";r=998;t=173',
      'retry-after': '30',
    })
    expect(refused.json()).toEqual({
      type: 'https://iana.org/assignments/http-problem-types#quota-exceeded',
      title: 'Too Many Requests',
      status: 429,
      detail: expect.stringMatching(/^Rate limit exceeded: "burst" \(2 in 60000 ms\)\. Try again in \d+ ms\.$/),
      code: 'RSC_RATE_LIMIT_EXCEEDED',
      'violated-policies': ['burst'],
    })
    expect(refused.headers).not.toHaveProperty('x-ratelimit-limit')
  })

  it('decides on Redis in one round trip for all windows, and refuses again without any', async () => {
    const counted = new CountedRedis({ url: await testRedis() })
    const { app } = await limitedApp({}, { redis: counted.resource })
    const rateLimit = [1, 2, 3].map((times) => ({
      limit: 2 * times,
      windowMs: 60_000 * times,
      group: `g${process.pid}`,
    }))
    app.get('/', { config: { scope: { rateLimit } } }, () => 1)
    expect(await statusesOf(2, () => app.inject('/'))).toEqual([200, 200])
    expect(counted.calls).toBe(2)
    expect(await statusesOf(10, () => app.inject('/'))).toEqual(new Array(10).fill(429))
    expect(counted.calls).toBe(3)
  })

  it('refuses before the body is parsed and before the handler', async () => {
    const { app } = await limitedApp()
    let parsed = 0
    app.addContentTypeParser('text/plain', (_request, _payload, done) => {
      parsed++
      done(null, 'text')
    })
    app.post('/', { config: { scope: { rateLimit: { limit: 1, windowMs: 60_000 } } } }, () => 1)
    const ask = () => app.inject({ method: 'POST', url: '/', headers: { 'content-type': 'text/plain' }, payload: 'x' })
    expect(await statusesOf(3, ask)).toEqual([200, 429, 429])
    expect(parsed).toBe(1)
  })

  it('decides at preHandler with what the hooks found out, and then gives back what onRequest took', async () => {
    const { app } = await limitedApp()
    app.addHook('preHandler', async (request) => {
      Object.assign(request, { user: request.headers.user })
    })
    const key = (request: FastifyRequest) => (request as { user?: string }).user
    const rateLimit = [
      { limit: 4, windowMs: 60_000 },
      { limit: 1, windowMs: 3_600_000, stage: 'preHandler', key },
    ] as const
    app.get('/', { config: { scope: { rateLimit } } }, () => 1)
    const as = (user: string) => app.inject({ url: '/', headers: { user } })
    expect((await as('a')).headers.ratelimit).toBe('"60s";r=3;t=15, "1h";r=0;t=3600')
    expect(await statusesOf(10, () => as('a'))).toEqual(new Array(10).fill(429))
    expect((await as('b')).headers.ratelimit).toMatch(/^"60s";r=2;/)
    // Without a user it is the address that counts.
    expect(await statusesOf(2, () => app.inject('/'))).toEqual([200, 429])
  })

  it('has defaults for the whole application that routes replace or switch off, and that 404s meet too', async () => {
    const { app } = await limitedApp({ rateLimit: { limit: 3, windowMs: 60_000 } })
    app.get('/default', () => 1)
    app.get('/own', { config: { scope: { rateLimit: { limit: 1, windowMs: 60_000 } } } }, () => 1)
    app.get('/none', { config: { scope: { rateLimit: false } } }, () => 1)
    app.get('/out', { config: { scope: false } }, () => 1)
    expect(await statusesOf(5, () => app.inject('/none'))).toEqual(new Array(5).fill(200))
    expect(await statusesOf(5, () => app.inject('/out'))).toEqual(new Array(5).fill(200))
    expect(await statusesOf(2, () => app.inject('/own'))).toEqual([200, 429])
    expect(await statusesOf(2, () => app.inject('/default'))).toEqual([200, 200])
    expect(await statusesOf(3, () => app.inject('/nowhere'))).toEqual([404, 429, 429])
    expect((await app.inject('/default')).statusCode).toBe(429)
  })

  it('counts for each route, together in a group, and HEAD with GET', async () => {
    const { app } = await limitedApp()
    const limit = { limit: 1, windowMs: 60_000 }
    app.get('/a', { config: { scope: { rateLimit: limit } } }, () => 1)
    app.get('/b', { config: { scope: { rateLimit: { ...limit, group: 'letters' } } } }, () => 1)
    await app.register(async (inner) => {
      inner.get('/c', { config: { scope: { rateLimit: { ...limit, group: 'letters' } } } }, () => 1)
    })
    const status = async (url: string, method: 'GET' | 'HEAD' = 'GET') => (await app.inject({ url, method })).statusCode
    expect([await status('/a'), await status('/a', 'HEAD')]).toEqual([200, 429])
    expect([await status('/b'), await status('/c')]).toEqual([200, 429])
  })

  it('counts the address that trustProxy lets it believe', async () => {
    const behind = async (trustProxy: boolean) => {
      const { app } = await limitedApp({}, {}, { trustProxy })
      app.get('/', { config: { scope: { rateLimit: { limit: 1, windowMs: 60_000 } } } }, () => 1)
      let client = 0
      return statusesOf(3, () => app.inject({ url: '/', headers: { 'x-forwarded-for': `203.0.113.${++client}` } }))
    }
    expect(await behind(true)).toEqual([200, 200, 200])
    expect(await behind(false)).toEqual([200, 429, 429])
  })

  it("lets the application's own error handler answer, with the limits in its headers", async () => {
    const { app } = await limitedApp()
    app.setErrorHandler((error, _request, reply) => reply.code(418).send({ code: (error as { code?: string }).code }))
    const rateLimit = { limit: 1, windowMs: 60_000, legacyHeaders: true }
    app.get('/', { config: { scope: { rateLimit } } }, () => 1)
    await app.inject('/')
    const refused = await app.inject('/')
    expect(refused.json()).toEqual({ code: 'RSC_RATE_LIMIT_EXCEEDED' })
    expect(refused.headers).toMatchObject({
      'retry-after': '60',
      ratelimit: '"60s";r=0;t=60',
      'x-ratelimit-limit': '1',
      'x-ratelimit-remaining': '0',
      'x-ratelimit-reset': '60',
    })
  })

  it('says the same of a refusal whether or not anybody of the application sees the error first', async () => {
    const { app } = await limitedApp()
    const seen: unknown[] = []
    const limit = (name: string) => ({
      config: { scope: { rateLimit: { limit: 1, windowMs: 3_600_000, group: name, legacyHeaders: true } } },
    })
    app.get('/plain', limit('plain'), () => 1)
    await app.register(async (inner) => {
      inner.setErrorHandler((error) => {
        seen.push(['error handler', (error as { code?: string }).code])
        throw error
      })
      inner.get('/handled', limit('handled'), () => 1)
    })
    await app.register(async (inner) => {
      inner.addHook('onError', async (_request, _reply, error) => {
        seen.push(['onError', (error as { code?: string }).code])
      })
      inner.get('/hooked', limit('hooked'), () => 1)
    })
    const errorHandler = (error: Error) => {
      seen.push(['of the route', (error as { code?: string }).code])
      throw error
    }
    app.get('/own', { ...limit('own'), errorHandler }, () => 1)
    const answers = []
    for (const url of ['/plain', '/handled', '/hooked', '/own']) {
      await app.inject(url)
      await app.inject(url)
      const { statusCode, headers, body } = await app.inject(url)
      answers.push({ statusCode, headers: { ...headers, date: '' }, body: body.replace(/\d+ ms\./, 'n ms.') })
    }
    const [plain, ...others] = answers
    expect(plain?.statusCode).toBe(429)
    for (const answer of others) expect(answer).toEqual(plain)
    const code = 'RSC_RATE_LIMIT_EXCEEDED'
    expect(seen).toEqual([
      ...new Array(2).fill(['error handler', code]),
      ...new Array(2).fill(['onError', code]),
      ...new Array(2).fill(['of the route', code]),
    ])
  })

  it("sends a refusal through the application's onSend and onResponse hooks, in the scope of the request", async () => {
    const { app } = await limitedApp()
    const seen: string[] = []
    app.addHook('onSend', async (request, reply, payload) => {
      seen.push(`onSend ${reply.statusCode} ${tryCurrentScope()?.id === request.scope.id}`)
      return `${payload} `
    })
    app.addHook('onResponse', async (request) => {
      seen.push(`onResponse ${request.scope.name}`)
    })
    app.get('/', { config: { scope: { rateLimit: { limit: 1, windowMs: 60_000 } } } }, () => 1)
    await app.inject('/')
    seen.length = 0
    const refused = await app.inject('/')
    expect(refused.body).toMatch(/^\{.*\} $/)
    await vi.waitFor(() => expect(seen).toEqual(['onSend 429 true', 'onResponse GET /']))
  })

  it('publishes each refusal, with who decided, and a shadow it never refuses by', async () => {
    const counted = new CountedRedis({ url: await testRedis() })
    const { app } = await limitedApp({}, { redis: counted.resource })
    const events: unknown[] = []
    const keep = (event: unknown) => void events.push(event)
    subscribe('reqscope:rate-limit:refused', keep)
    onTestFinished(() => void unsubscribe('reqscope:rate-limit:refused', keep))
    const group = randomUUID()
    const one = { limit: 1, windowMs: 60_000, group }
    app.get('/', { config: { scope: { rateLimit: [one, { ...one, name: 'planned', shadow: true }] } } }, () => 1)
    app.get('/shadow', { config: { scope: { rateLimit: { ...one, name: 'planned', shadow: true } } } }, () => 1)
    expect(await statusesOf(3, () => app.inject('/'))).toEqual([200, 429, 429])
    expect(await statusesOf(2, () => app.inject('/shadow'))).toEqual([200, 200])
    expect((await app.inject('/shadow')).headers).not.toHaveProperty('ratelimit')
    const planned = { limit: 'planned', shadow: true, by: 'store' }
    expect(events).toEqual([
      { limit: '60s', shadow: false, by: 'store' },
      planned,
      { limit: '60s', shadow: false, by: 'memory' },
      ...[planned, planned, planned],
    ])
  })

  it('asks plans, costs and whom to skip of the request', async () => {
    const { app } = await limitedApp()
    const header = (request: FastifyRequest, name: string) => String(request.headers[name] ?? '')
    const rateLimit = {
      limit: (request: FastifyRequest) => (header(request, 'plan') === 'gold' ? 10 : 2),
      windowMs: 60_000,
      key: (request: FastifyRequest) => header(request, 'plan'),
      cost: async (request: FastifyRequest) => (request.method === 'POST' ? 2 : 1),
      skip: (request: FastifyRequest) => header(request, 'plan') === 'staff',
    }
    app.route({ method: ['GET', 'POST'], url: '/', config: { scope: { rateLimit } }, handler: () => 1 })
    const ask = (plan: string, method: 'GET' | 'POST' = 'GET') => app.inject({ url: '/', method, headers: { plan } })
    expect((await ask('gold', 'POST')).headers).toMatchObject({ 'ratelimit-policy': '"60s";q=10;w=60' })
    expect((await ask('gold')).headers.ratelimit).toMatch(/^"60s";r=7;/)
    expect(await statusesOf(2, () => ask('basic', 'POST'))).toEqual([200, 429])
    expect(await statusesOf(20, () => ask('staff'))).toEqual(new Array(20).fill(200))
    expect((await ask('staff')).headers).not.toHaveProperty('ratelimit')
  })

  it('does as the limit says while the store is away: counts by itself, lets all pass, or refuses with 503', async () => {
    const server = await startRedis({ own: true })
    onTestFinished(() => server.stop())
    const { app } = await limitedApp({}, { redis: redis({ url: server.url }) })
    for (const onStoreFailure of ['local', 'allow', 'refuse'] as const) {
      const rateLimit = { limit: 1, windowMs: 60_000, onStoreFailure }
      app.get(`/${onStoreFailure}`, { config: { scope: { rateLimit } } }, () => 1)
    }
    await app.ready()
    server.kill('SIGSTOP')
    onTestFinished(() => server.kill('SIGCONT'))
    const since = performance.now()
    expect(await statusesOf(3, () => app.inject('/local'))).toEqual([200, 429, 429])
    expect(await statusesOf(3, () => app.inject('/allow'))).toEqual([200, 200, 200])
    const refused = await app.inject('/refuse')
    expect([refused.statusCode, refused.headers['retry-after']]).toEqual([503, '1'])
    expect(performance.now() - since).toBeLessThan(900) // the store was asked once, for 100 ms
  })

  it('refuses the upgrade to a websocket', async () => {
    const { app, scopes } = await limitedApp()
    await app.register(websocket)
    await app.register(async (inner) => {
      const rateLimit = { limit: 1, windowMs: 60_000 }
      inner.get('/ws', { websocket: true, config: { scope: { rateLimit } } }, (socket) => socket.send('hello'))
    })
    const url = `ws://127.0.0.1:${await portOf(app)}/ws`
    const first = new WebSocket(url)
    const [greeting] = await once(first, 'message')
    expect(String(greeting)).toBe('hello')
    const second = new WebSocket(url)
    const [refusal] = (await once(second, 'error').catch((error: unknown) => [error])) as [Error]
    expect(refusal.message).toBe('Unexpected server response: 429')
    first.terminate()
    await vi.waitFor(() => expect(scopes.snapshot().openScopes.total).toBe(0))
  })

  it('ends the scope of what it refused', async () => {
    const { app, scopes } = await limitedApp()
    app.get('/', { config: { scope: { rateLimit: { limit: 1, windowMs: 60_000 } } } }, () => 1)
    await statusesOf(5, () => app.inject('/'))
    expect(scopes.snapshot().openScopes.total).toBe(0)
  })

  it('answers a key that fails as the failure it is, and a key of another kind too', async () => {
    const { app } = await limitedApp()
    const failing = () => {
      throw new Error('no session store')
    }
    app.get('/throws', { config: { scope: { rateLimit: { limit: 1, windowMs: 1_000, key: failing } } } }, () => 1)
    const odd = (() => ({})) as unknown as () => string
    app.get('/odd', { config: { scope: { rateLimit: { limit: 1, windowMs: 1_000, key: odd } } } }, () => 1)
    expect((await app.inject('/throws')).json()).toMatchObject({ statusCode: 500, message: 'no session store' })
    expect((await app.inject('/odd')).json()).toMatchObject({ status: 500, code: 'RSC_INVALID_OPTION' })
  })

  it.each([
    [{ max: 100 }, '.max'],
    [{ limit: '100', windowMs: 1_000 }, '.limit'],
    [{ limit: 0, windowMs: 1_000 }, '.limit'],
    [{ limit: 1.5, windowMs: 1_000 }, '.limit'],
    [{ limit: 10, windowMs: '1 minute' }, '.windowMs'],
    [{ limit: 10 }, '.windowMs'],
    [{ limit: 10, windowMs: 1_000, burst: 0 }, '.burst'],
    [{ limit: 10, windowMs: 1_000, cost: 11 }, '.cost'],
    [{ limit: 10, windowMs: 1_000, key: 'ip' }, '.key'],
    [{ limit: 10, windowMs: 1_000, name: 'zwölf' }, '.name'],
    [{ limit: 10, windowMs: 1_000, stage: 'onSend' }, '.stage'],
    [{ limit: 10, windowMs: 1_000, shadow: 1 }, '.shadow'],
    [{ limit: 10, windowMs: 1_000, onStoreFailure: 'skip' }, '.onStoreFailure'],
    [{ limit: 10, windowMs: 1_000, storeTimeoutMs: -1 }, '.storeTimeoutMs'],
    [[], ''],
    [true, ''],
    [
      [
        { limit: 10, windowMs: 1_000 },
        { limit: 5, windowMs: 1_000 },
      ],
      '[1].name',
    ],
  ])('is refused where the route is declared: %o', async (rateLimit, option) => {
    const { app } = await limitedApp()
    const declare = () => app.get('/x', { config: { scope: { rateLimit: rateLimit as never } } }, () => 1)
    expect(declare).toThrow(
      expect.objectContaining({
        code: 'RSC_INVALID_OPTION',
        option: `config.scope of GET /x.rateLimit${option}`,
      }),
    )
  })
})
