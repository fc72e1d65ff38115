import { startChaosProxy } from '@reqscope/services/chaos-proxy'
import { testRedis } from '@reqscope/services/testing'
import { Redis } from 'ioredis'
import { describe, expect, it, onTestFinished } from 'vitest'
import { ConnectionLostError, InvalidOptionError, SharedConnectionError } from '../../src/index.ts'
import { failureOf, key, ownServer, redisApp } from './fixture.ts'

function client(url: string, options = {}): Redis {
  const made = new Redis(url, options)
  onTestFinished(() => made.disconnect())
  return made
}

describe('a client of the application', () => {
  it('is shared, with its key prefix and its scripts, and never closed', async () => {
    const given = client(await testRedis(), { keyPrefix: `${key('app')}:` })
    given.defineCommand('bump', { numberOfKeys: 1, lua: 'return redis.call("INCRBY", KEYS[1], ARGV[1])' })
    const app = await redisApp({ client: given })
    await app.run({ name: 'uses it' }, async ({ redis }) => {
      await redis.set('k', 1)
      expect(await given.get('k')).toBe('1')
      expect(await redis.client('ID')).toBe(await given.client('ID'))
      const scripted = redis as unknown as { bump(key: string, by: number): Promise<number> }
      expect(await scripted.bump('k', 4)).toBe(5)
      expect(await redis.exclusive((it) => it.get('k'))).toBe('5')
      expect(await redis.exclusive((it) => (it as unknown as typeof scripted).bump('k', 1))).toBe(6)
      const replies = await redis.optimistic(['k'], async (tx) => tx.multi().set('k', `${await tx.get('k')}!`))
      expect(replies).toEqual(['OK'])
      expect(() => (redis as unknown as Redis).watch('k')).toThrow(SharedConnectionError)
    })
    await app.close()
    expect(await given.ping()).toBe('PONG')
  })

  it('is waited for no longer than commandTimeoutMs, whatever its own settings say', async () => {
    const server = await ownServer()
    const proxy = await startChaosProxy({ target: server.url })
    onTestFinished(() => proxy.close())
    const given = client(proxy.url(server.url))
    given.on('error', () => {})
    const app = await redisApp({ client: given, commandTimeoutMs: 100 })
    proxy.refuse()
    proxy.cut()
    const begun = performance.now()
    expect(await app.run({ name: 'down' }, ({ redis }) => failureOf(redis.get('k')))).toBeInstanceOf(
      ConnectionLostError,
    )
    expect(performance.now() - begun).toBeLessThan(1_000)
    await proxy.resume()
    await expect
      .poll(() => app.run({ name: 'up' }, ({ redis }) => redis.ping().catch(() => 'no')), { timeout: 5_000 })
      .toBe('PONG')
  })

  it('takes no settings that it has itself', async () => {
    const given = client(await testRedis())
    expect(await failureOf(redisApp({ client: given, connection: { db: 1 } }))).toBeInstanceOf(InvalidOptionError)
  })

  it('is connected where it is not yet, and a start fails where it has ended', async () => {
    const lazy = client(await testRedis(), { lazyConnect: true })
    const app = await redisApp({ client: lazy })
    expect(await app.run({ name: 'lazy' }, ({ redis }) => redis.ping())).toBe('PONG')
    const ended = client(await testRedis())
    await ended.quit()
    await expect.poll(() => ended.status).toBe('end')
    expect(await failureOf(redisApp({ client: ended }))).toBeInstanceOf(ConnectionLostError)
  })

  it('serves two runtimes, of which one closes', async () => {
    const given = client(await testRedis())
    const [one, other] = [await redisApp({ client: given }), await redisApp({ client: given })]
    const k = key()
    await one.run({ name: 'one' }, ({ redis }) => redis.set(k, 1))
    await one.close()
    await other.run({ name: 'other' }, async ({ redis }) => {
      expect(await redis.get(k)).toBe('1')
      expect(await redis.optimistic([k], async (tx) => tx.multi().incrby(k, Number(await tx.get(k))))).toEqual([2])
    })
  })
})
