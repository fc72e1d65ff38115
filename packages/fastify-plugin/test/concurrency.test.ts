import { request as httpRequest } from 'node:http'
import { createScopes } from '@reqscope/core'
import { postgres } from '@reqscope/core/postgres'
import { sql } from 'drizzle-orm'
import { describe, expect, it, vi } from 'vitest'
import { Gate } from '../../core/test/gate.ts'
import reqscope, { type ReqscopeOptions } from '../src/index.ts'
import { bareApp, memoryLogger, ordersDatabase, portOf } from './fixture.ts'

async function gatedApp(options: Omit<Extract<ReqscopeOptions, { scopes: unknown }>, 'scopes'> = {}) {
  const app = bareApp()
  const scopes = createScopes({ resources: {}, logger: memoryLogger().logger })
  await app.register(reqscope, { scopes, ...options })
  const gate = new Gate()
  return { app, scopes, gate }
}

describe('config.scope.concurrency', () => {
  it('lets so many in, so many wait, and answers the others 503 with Retry-After before their body is parsed', async () => {
    const { app, scopes, gate } = await gatedApp()
    let parsed = 0
    app.addContentTypeParser('text/plain', (_request, payload, done) => {
      parsed++
      payload.resume().on('end', () => done(null, 'text'))
    })
    app.post('/', { config: { scope: { concurrency: { max: 2, maxQueued: 1 } } } }, async () => {
      await gate.passed
      return 'done'
    })
    const ask = () => app.inject({ method: 'POST', url: '/', headers: { 'content-type': 'text/plain' }, payload: 'x' })
    const all = [ask(), ask(), ask()]
    await vi.waitFor(() => expect(scopes.snapshot().openScopes.total).toBe(3))
    const refused = await ask()
    expect(refused.json()).toEqual({
      type: 'https://iana.org/assignments/http-problem-types#temporary-reduced-capacity',
      title: 'Temporary Reduced Capacity',
      status: 503,
      detail: 'The server does not take this request at the moment. Try again later.',
      code: 'RSC_OVERLOADED',
    })
    expect(refused.headers['retry-after']).toBe('1')
    expect(parsed).toBe(2)
    gate.open()
    expect((await Promise.all(all)).map(({ statusCode }) => statusCode)).toEqual([200, 200, 200])
    expect(scopes.snapshot().openScopes.total).toBe(0)
    expect((await ask()).statusCode).toBe(200)
  })

  it('shares its places in a group, which has to say the same numbers everywhere', async () => {
    const { app, scopes, gate } = await gatedApp()
    const config = { scope: { concurrency: { max: 1, group: 'reports' } } }
    app.get('/a', { config }, () => gate.passed)
    app.get('/b', { config }, () => 'b')
    const other = { scope: { concurrency: { max: 2, group: 'reports' } } }
    expect(() => app.get('/c', { config: other }, () => 1)).toThrow(
      expect.objectContaining({ option: 'config.scope of GET /c.concurrency.max' }),
    )
    const first = app.inject('/a')
    await vi.waitFor(() => expect(scopes.snapshot().openScopes.total).toBe(1))
    expect((await app.inject('/b')).statusCode).toBe(503)
    gate.open()
    await first
    expect((await app.inject('/b')).statusCode).toBe(200)
  })

  it('gives the place back however a request ends: by a throw, an abort, a deadline', async () => {
    const { app, scopes } = await gatedApp()
    const concurrency = { max: 1 }
    app.get('/throws', { config: { scope: { concurrency } } }, () => {
      throw new Error('no')
    })
    app.get('/late', { config: { scope: { concurrency, timeoutMs: 30 } } }, ({ scope }) => {
      return new Promise((_, reject) => scope.signal.addEventListener('abort', () => reject(scope.signal.reason)))
    })
    app.get('/aborted', { config: { scope: { concurrency } } }, async ({ scope }) => {
      await new Promise((resolve) => scope.signal.addEventListener('abort', resolve))
    })
    const port = await portOf(app)
    for (let round = 0; round < 3; round++) {
      expect((await app.inject('/throws')).statusCode).toBe(500)
      expect((await app.inject('/late')).statusCode).toBe(504)
      const client = httpRequest({ port, path: '/aborted' }).on('error', () => {})
      client.end()
      await vi.waitFor(() => expect(scopes.snapshot().openScopes.total).toBe(1))
      client.destroy()
      await vi.waitFor(() => expect(scopes.snapshot().openScopes.total).toBe(0))
    }
  })

  it('does not run the handler of a client that went away while it waited', async () => {
    const { app, scopes, gate } = await gatedApp()
    let runs = 0
    app.get('/', { config: { scope: { concurrency: { max: 1, maxQueued: 5 } } } }, async () => {
      runs++
      await gate.passed
      return 1
    })
    const port = await portOf(app)
    const first = app.inject('/')
    await vi.waitFor(() => expect(runs).toBe(1))
    const client = httpRequest({ port, path: '/' }).on('error', () => {})
    client.end()
    await vi.waitFor(() => expect(scopes.snapshot().openScopes.total).toBe(2))
    client.destroy()
    await vi.waitFor(() => expect(scopes.snapshot().openScopes.total).toBe(1))
    gate.open()
    await first
    expect((await app.inject('/')).statusCode).toBe(200)
    expect(runs).toBe(2)
  })

  it('gives back what the rate limit took of a request that found no place', async () => {
    const { app, scopes, gate } = await gatedApp()
    const rateLimit = { limit: 2, windowMs: 3_600_000 }
    app.get('/', { config: { scope: { concurrency: { max: 1 }, rateLimit } } }, () => gate.passed)
    const first = app.inject('/')
    await vi.waitFor(() => expect(scopes.snapshot().openScopes.total).toBe(1))
    for (let count = 0; count < 5; count++) expect((await app.inject('/')).statusCode).toBe(503)
    gate.open()
    await first
    expect((await app.inject('/')).statusCode).toBe(200)
    expect((await app.inject('/')).statusCode).toBe(429)
  })

  it.each([
    [{ concurrency: { max: '20' } }, 'concurrency.max'],
    [{ concurrency: 20 }, 'concurrency'],
    [{ priority: 'high' }, 'priority'],
  ])('is refused where the route is declared: %o', async (scope, option) => {
    const { app } = await gatedApp()
    expect(() => app.get('/x', { config: { scope: scope as never } }, () => 1)).toThrow(
      expect.objectContaining({ code: 'RSC_INVALID_OPTION', option: `config.scope of GET /x.${option}` }),
    )
  })
})

describe('the adaptive limit of an application', () => {
  it('sheds reports first, then pages, and the checkout last', async () => {
    const { app, scopes, gate } = await gatedApp({ adaptive: { min: 1, initial: 10 } })
    for (const priority of ['background', 'normal', 'critical'] as const) {
      app.get(`/${priority}`, { config: { scope: { priority } } }, () => gate.passed)
    }
    const admitted: Promise<unknown>[] = []
    const fill = async (url: string) => {
      const before = scopes.snapshot().openScopes.total
      const all = Array.from({ length: 10 }, () => app.inject(url))
      admitted.push(...all)
      await new Promise((resolve) => setTimeout(resolve, 50))
      return scopes.snapshot().openScopes.total - before
    }
    expect([await fill('/background'), await fill('/normal'), await fill('/critical')]).toEqual([5, 4, 1])
    gate.open()
    await Promise.all(admitted)
  })

  it('refuses to start with options that are wrong', async () => {
    await expect(gatedApp({ adaptive: { max: 0 } })).rejects.toMatchObject({ option: 'reqscope.adaptive.max' })
  })
})

describe('a request whose deadline the wait for a connection would outlast', async () => {
  const database = await ordersDatabase()

  it('is refused at the door, once it is known that its route needs one', async () => {
    const app = bareApp()
    const db = postgres({ url: database.url, max: 1, acquireTimeoutMs: 5_000 })
    const scopes = createScopes({ resources: { db }, logger: memoryLogger().logger })
    await app.register(reqscope, { scopes })
    app.get('/slow', { config: { scope: { transaction: true } } }, async (request) => {
      await (request.scope as unknown as { db: { execute(query: unknown): Promise<unknown> } }).db.execute(
        sql`select pg_sleep(0.4)`,
      )
      return 1
    })
    app.get('/quick', { config: { scope: { timeoutMs: 200 } } }, async (request) => {
      await (request.scope as unknown as { db: { execute(query: unknown): Promise<unknown> } }).db.execute(
        sql`select 1`,
      )
      return 1
    })
    app.get('/without', { config: { scope: { timeoutMs: 200 } } }, () => 1)
    expect((await app.inject('/quick')).statusCode).toBe(200)
    const slow = Array.from({ length: 4 }, () => app.inject('/slow'))
    await vi.waitFor(() => expect(db.expectedWaitMs?.()).toBeGreaterThan(200), { interval: 10 })
    const refused = await app.inject('/quick')
    expect(refused.json()).toMatchObject({ status: 503, code: 'RSC_OVERLOADED' })
    expect((await app.inject('/without')).statusCode).toBe(200)
    await Promise.all(slow)
    expect((await app.inject('/quick')).statusCode).toBe(200)
  })
})
