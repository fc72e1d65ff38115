import { randomUUID } from 'node:crypto'
import fastifyRedis from '@fastify/redis'
import { ConnectionLostError, SharedConnectionError } from '@reqscope/core'
import type { ScopedRedis } from '@reqscope/core/redis'
import { startRedis } from '@reqscope/services'
import { testRedis } from '@reqscope/services/testing'
import type { FastifyInstance } from 'fastify'
import type { Redis } from 'ioredis'
import { describe, expect, it, onTestFinished, vi } from 'vitest'
import { failureOf } from '../../core/test/gate.ts'
import reqscope, { type ReqscopeOptions } from '../src/index.ts'
import { bareApp, ordersDatabase } from './fixture.ts'

const redisOf = (request: { scope: unknown }) => (request.scope as { redis: ScopedRedis }).redis
const clientOf = (app: FastifyInstance) => (app as unknown as { redis: Redis & Record<string, Redis> }).redis

describe('the redis option', async () => {
  const url = await testRedis()
  const key = randomUUID()

  it('makes the connection that becomes app.redis, and closes it', async () => {
    const app = bareApp()
    await app.register(reqscope, { redis: { url } })
    app.get('/', async (request) => ({
      count: await redisOf(request).incr(key),
      id: await redisOf(request).client('ID'),
    }))
    const answer = (await app.inject('/')).json()
    expect(answer.count).toBe(1)
    expect(await clientOf(app).client('ID')).toBe(answer.id)
    await app.close()
    await expect.poll(() => clientOf(app).status).toBe('end')
  })

  it('uses app.redis where it is there, and leaves it open', async () => {
    const app = bareApp()
    await app.register(fastifyRedis, { url, closeClient: false })
    await app.register(reqscope, { redis: true })
    app.get('/', async (request) => ({ id: await redisOf(request).client('ID') }))
    expect((await app.inject('/')).json()).toEqual({ id: await clientOf(app).client('ID') })
    const quit = vi.spyOn(clientOf(app), 'quit')
    await app.scopes.close()
    expect(quit).not.toHaveBeenCalled()
    expect(await clientOf(app).ping()).toBe('PONG')
  })

  it('uses a namespace of app.redis', async () => {
    const app = bareApp()
    await app.register(fastifyRedis, { url, namespace: 'cache' })
    await app.register(reqscope, { redis: { namespace: 'cache' } })
    app.get('/', async (request) => ({ id: await redisOf(request).client('ID') }))
    expect((await app.inject('/')).json()).toEqual({ id: await clientOf(app).cache?.client('ID') })
  })

  it('goes with postgres', async () => {
    const app = bareApp()
    await app.register(reqscope, { postgres: { url: (await ordersDatabase()).url }, redis: { url } })
    expect((await app.scopes.health()).resources).toMatchObject({ db: { status: 'up' }, redis: { status: 'up' } })
  })

  it.each([
    [{}, { redis: 1 }, 'reqscope.redis'],
    [{}, { redis: true }, 'redis'],
    [{}, { redis: { url, commandTimeoutMs: 'x' } }, 'redis.commandTimeoutMs'],
    [{}, { redis: { url, namespace: 1 } }, 'reqscope.redis.namespace'],
    [{ url }, { redis: { url } }, 'reqscope.redis.url'],
    [{ url }, { redis: { namespace: 'cache' } }, 'reqscope.redis.namespace'],
    [{ url, namespace: 'other' }, { redis: true }, 'reqscope.redis.namespace'],
  ])('refuses a wrong option and names it: %j %j', async (registered, options, option) => {
    const app = bareApp()
    if ('url' in registered) await app.register(fastifyRedis, registered as never)
    const error = await failureOf((async () => app.register(reqscope, options as ReqscopeOptions))())
    expect(error).toMatchObject({ code: 'RSC_INVALID_OPTION', option })
  })

  it('answers a refused command with 500, and a lost Redis with 503 and Retry-After', async () => {
    const server = await startRedis({ own: true })
    onTestFinished(() => server.stop())
    const app = bareApp()
    await app.register(reqscope, { redis: { url: server.url, commandTimeoutMs: 300 } })
    const errors: unknown[] = []
    app.addHook('onError', async (_request, _reply, error) => void errors.push(error))
    app.get('/watch', async (request) => (redisOf(request) as unknown as Redis).watch('k'))
    app.get('/get', async (request) => redisOf(request).get('k'))
    expect((await app.inject('/watch')).statusCode).toBe(500)
    expect(errors[0]).toBeInstanceOf(SharedConnectionError)
    server.kill('SIGKILL')
    await vi.waitFor(() => expect(server.pid).toBe(undefined))
    const answer = await app.inject('/get')
    expect(answer.statusCode).toBe(503)
    expect(answer.headers['retry-after']).toBe('1')
    expect(errors[1]).toBeInstanceOf(ConnectionLostError)
    await app.close()
  })

  it('fails at boot when Redis is not there', async () => {
    const error = await failureOf(
      (async () => bareApp().register(reqscope, { redis: { url: 'redis://127.0.0.1:1' } }))(),
    )
    expect(error).toBeInstanceOf(ConnectionLostError)
  })
})
