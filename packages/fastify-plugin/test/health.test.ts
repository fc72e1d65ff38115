import { createScopes, defineResource } from '@reqscope/core'
import { postgres } from '@reqscope/core/postgres'
import { describe, expect, it, vi } from 'vitest'
import { Gate } from '../../core/test/gate.ts'
import reqscope, { type ReqscopeOptions } from '../src/index.ts'
import { bareApp, memoryLogger, ordersDatabase } from './fixture.ts'

async function healthyApp(health: ReqscopeOptions['health'] = true) {
  let status: 'up' | 'degraded' | 'down' = 'up'
  let asked = 0
  const thing = defineResource({
    handle: () => ({}),
    health: () => {
      asked++
      return { status, queryMs: 5_000, secret: 'postgres://admin:pw@10.0.0.1' }
    },
  })
  const scopes = createScopes({ resources: { thing }, logger: memoryLogger().logger })
  const app = bareApp()
  await app.register(reqscope, {
    scopes,
    health,
    adaptive: { min: 1, max: 1, initial: 1 },
    rateLimit: { limit: 1, windowMs: 60_000 },
  })
  return { app, scopes, become: (next: typeof status) => (status = next), asked: () => asked }
}

describe('GET /health/ready', () => {
  it('says which threshold is crossed, with its value, and nothing that a resource says of its insides', async () => {
    const { app } = await healthyApp()
    const answer = await app.inject('/health/ready')
    expect(answer.statusCode).toBe(200)
    expect(answer.json()).toEqual({
      status: 'degraded',
      state: 'open',
      resources: { thing: 'up' },
      crossed: [{ name: 'thing.queryMs', value: 5_000, threshold: 1_000 }],
    })
    expect(answer.body).not.toContain('admin')
  })

  it('asks once for a storm of probes', async () => {
    const { app, asked } = await healthyApp()
    await Promise.all(Array.from({ length: 100 }, () => app.inject('/health/ready')))
    expect(asked()).toBe(1)
  })

  it('is 503 while something is down, and liveness is not', async () => {
    const { app, become } = await healthyApp({ path: '/status', cacheMs: 0 })
    become('down')
    expect((await app.inject('/status/ready')).statusCode).toBe(503)
    expect((await app.inject('/status/live')).json()).toEqual({ status: 'up' })
    become('up')
    expect((await app.inject('/status/ready')).statusCode).toBe(200)
  })

  it('is 503 as soon as the application shuts down, whatever was cached', async () => {
    const { app, scopes } = await healthyApp({ cacheMs: 60_000 })
    const gate = new Gate()
    const working = scopes.run({ name: 'long' }, () => gate.passed)
    expect((await app.inject('/health/ready')).statusCode).toBe(200)
    const closing = scopes.close({ timeoutMs: 5_000 })
    const answer = await app.inject('/health/ready')
    expect(answer.json()).toMatchObject({ status: 'down', state: 'closing' })
    expect(answer.statusCode).toBe(503)
    expect((await app.inject('/health/live')).statusCode).toBe(200)
    gate.open()
    await Promise.all([working, closing])
  })

  it('answers while everything else is shed or limited', async () => {
    const { app, scopes } = await healthyApp()
    const gate = new Gate()
    app.get('/', () => gate.passed)
    const holding = Promise.resolve(app.inject('/'))
    await vi.waitFor(() => expect(scopes.snapshot().openScopes.total).toBe(1))
    expect((await app.inject('/')).statusCode).toBe(429)
    for (let count = 0; count < 5; count++) expect((await app.inject('/health/ready')).statusCode).toBe(200)
    gate.open()
    await holding
  })

  it('shows figures and the holder of the oldest lease where it is told to', async () => {
    const database = await ordersDatabase()
    const db = postgres({ url: database.url, max: 3 })
    const scopes = createScopes({
      resources: { db },
      logger: memoryLogger().logger,
      health: { thresholds: { poolUse: 0.3 } },
    })
    const app = bareApp()
    await app.register(reqscope, { scopes, health: { details: true, cacheMs: 0 } })
    await scopes.run({ name: 'holds', id: 't-1' }, (scope) =>
      scope.transaction(async () => {
        await scope.db.$client`select 'secret'`
        const answer = await app.inject('/health/ready')
        expect(answer.json()).toMatchObject({
          status: 'degraded',
          crossed: [{ name: 'db.poolUse', value: 1 / 3, threshold: 0.3 }],
          resources: { db: { status: 'up', idleInTransaction: 0, pool: { max: 3, leased: 1, circuit: 'closed' } } },
          oldestLease: { resource: 'db', scope: { id: 't-1', kind: 'task', name: 'holds' }, state: 'transaction' },
        })
        expect(answer.body).not.toContain('secret')
      }),
    )
  })

  it.each([
    [{ path: 'health' }, 'reqscope.health.path'],
    [{ path: '/health/' }, 'reqscope.health.path'],
    [{ cacheMs: '1s' }, 'reqscope.health.cacheMs'],
    [{ detail: true }, 'reqscope.health.detail'],
  ])('refuses to start with %o', async (health, option) => {
    await expect(healthyApp(health as never)).rejects.toMatchObject({ code: 'RSC_INVALID_OPTION', option })
  })

  it.each([
    [{ poolUse: 95 }, 'createScopes.health.thresholds.poolUse'],
    [{ queryMs: '1' }, 'createScopes.health.thresholds.queryMs'],
    [{ latency: 1 }, 'createScopes.health.thresholds.latency'],
  ])('refuses the thresholds %o', (thresholds, option) => {
    expect(() => createScopes({ resources: {}, health: { thresholds: thresholds as never } })).toThrow(
      expect.objectContaining({ option }),
    )
  })
})
