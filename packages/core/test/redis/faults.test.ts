import { startChaosProxy } from '@reqscope/services/chaos-proxy'
import { describe, expect, it, onTestFinished, vi } from 'vitest'
import { ConnectionLostError, createScopes, isReqscopeError } from '../../src/index.ts'
import { redis } from '../../src/redis/index.ts'
import { crashes } from '../crashes.ts'
import { memoryLogger } from '../memory-logger.ts'
import { failureOf, key, outside, ownServer, redisApp } from './fixture.ts'

describe('when Redis fails', () => {
  it('fails to start with what is wrong, and shows no password', async () => {
    const app = createScopes({
      resources: { redis: redis({ url: 'redis://user:s3cret@127.0.0.1:1/0' }) },
      logger: memoryLogger().logger,
    })
    onTestFinished(() => app.close())
    const error = (await failureOf(app.start())) as ConnectionLostError
    expect(error).toBeInstanceOf(ConnectionLostError)
    expect(error.reason).toBe('unreachable')
    expect(error.message).toContain('127.0.0.1:1')
    expect(`${error.stack}${JSON.stringify(error)}`).not.toContain('s3cret')
  })

  it('fails to start with a wrong password or database', async () => {
    const server = await ownServer()
    const watch = await outside(server.url)
    const of = (url: string) => {
      const app = createScopes({ resources: { redis: redis({ url }) }, logger: memoryLogger().logger })
      onTestFinished(() => app.close())
      return failureOf(app.start())
    }
    expect(await of(`${server.url}/99`)).toMatchObject({ reason: 'no-such-database' })
    await watch.config('SET', 'requirepass', 'right')
    expect(await of(server.url.replace('redis://', 'redis://:wrong@'))).toMatchObject({ reason: 'authentication' })
    expect(await of(server.url)).toMatchObject({ reason: 'authentication' })
  })

  it('can be started again once Redis is there', async () => {
    const server = await ownServer()
    server.kill('SIGKILL')
    await vi.waitFor(() => expect(server.pid).toBe(undefined))
    const app = createScopes({ resources: { redis: redis({ url: server.url }) }, logger: memoryLogger().logger })
    onTestFinished(() => app.close())
    expect(await failureOf(app.start())).toMatchObject({ reason: 'unreachable' })
    await server.restart()
    await app.start()
    expect(await app.run({ name: 'works' }, (scope) => scope.redis.ping())).toBe('PONG')
  })

  it('rejects in time when Redis hangs, and does not do later what was refused', async () => {
    const server = await ownServer()
    const proxy = await startChaosProxy({ target: server.url })
    onTestFinished(() => proxy.close())
    const app = await redisApp({ url: proxy.url(server.url), commandTimeoutMs: 80 })
    const watch = await outside(server.url)
    const k = key()
    proxy.refuse()
    proxy.cut()
    const error = await app.run({ name: 'cut' }, (scope) => failureOf(scope.redis.incr(k)))
    expect(error).toBeInstanceOf(ConnectionLostError)
    await proxy.resume()
    await vi.waitFor(
      async () => expect(await app.run({ name: 'back' }, (scope) => scope.redis.ping())).toBe('PONG'),
      5_000,
    )
    expect(await watch.get(k)).toBe(null)
    proxy.blackHole()
    expect(await app.run({ name: 'hangs' }, (scope) => failureOf(scope.redis.get(k)))).toMatchObject({
      reason: 'timeout',
    })
    expect(
      await app.run({ name: 'hangs' }, (scope) => failureOf(scope.redis.exclusive((it) => it.get(k)))),
    ).toMatchObject({ reason: 'timeout' })
  })

  it('never sends again what was under way when the connection was lost', async () => {
    const server = await ownServer()
    const app = await redisApp({ url: server.url })
    const watch = await outside(server.url)
    const k = key()
    await app.run({ name: 'increments' }, async (scope) => {
      const id = await scope.redis.client('ID')
      // All of it arrives at once, and the connection dies in the middle: what is behind is lost with it.
      const settled = await Promise.allSettled([
        scope.redis.incr(k),
        scope.redis.call('CLIENT', 'KILL', 'ID', String(id), 'SKIPME', 'no'),
        scope.redis.incr(k),
        scope.redis.incr(k),
      ])
      expect(settled.map(({ status }) => status)).toEqual(['fulfilled', 'fulfilled', 'rejected', 'rejected'])
      await scope.redis.ping()
      const done = Number(await watch.get(k))
      expect(done).toBeLessThanOrEqual(3)
      await scope.redis.ping()
      expect(Number(await watch.get(k))).toBe(done)
    })
  })

  it('survives Redis killed and restarted under load: typed errors, and recovery without help', async () => {
    const crashed = crashes()
    const server = await ownServer()
    const app = await redisApp({ url: server.url, commandTimeoutMs: 500, connectTimeoutMs: 500 })
    const k = key()
    const errors: unknown[] = []
    let successes = 0
    let going = true
    const clients = Array.from({ length: 24 }, async (_, index) => {
      while (going) {
        await app
          .run({ name: `load ${index % 3}` }, async ({ redis }) => {
            if (index % 3 === 0) await redis.incr(k)
            else if (index % 3 === 1)
              await redis.optimistic([k], async (tx) => tx.multi().set(`${k}o`, String(await tx.get(k))))
            else await redis.exclusive((connection) => connection.get(k))
            successes++
          })
          .catch(async (error: unknown) => {
            errors.push(error)
            await new Promise((resolve) => setTimeout(resolve, 10))
          })
      }
    })
    const more = async (count: number) => {
      const before = successes
      await vi.waitFor(() => expect(successes).toBeGreaterThan(before + count), { timeout: 10_000 })
    }
    await more(300)
    server.kill('SIGKILL')
    await vi.waitFor(() => expect(errors.length).toBeGreaterThan(24), 5_000)
    await server.restart()
    await more(300)
    going = false
    await Promise.all(clients)
    expect(errors.filter((error) => !isReqscopeError(error))).toEqual([])
    const codes = new Set(errors.map((error) => (error as { code: string }).code))
    for (const code of codes) {
      expect(['RSC_CONNECTION_LOST', 'RSC_POOL_EXHAUSTED', 'RSC_OPTIMISTIC_CONFLICT']).toContain(code)
    }
    expect(crashed).toEqual([])
    expect(app.snapshot().leases).toEqual([])
    expect((await app.health()).status).toBe('up')
    const said = app.logs
      .filter(({ message }) => message.startsWith('the connection to Redis'))
      .map(({ message }) => message)
    expect(said).toContain('the connection to Redis is back')
  })

  it('says in its health that it is down, and up again', async () => {
    const server = await ownServer()
    const app = await redisApp({ url: server.url, commandTimeoutMs: 200 })
    expect((await app.health()).status).toBe('up')
    server.kill('SIGKILL')
    await vi.waitFor(async () => expect((await app.health()).status).toBe('down'), 5_000)
    await server.restart()
    await vi.waitFor(async () => expect((await app.health()).status).toBe('up'), 5_000)
  })
})
