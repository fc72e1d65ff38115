import { startRedisCluster } from '@reqscope/services'
import { Cluster, Redis } from 'ioredis'
import { afterAll, describe, expect, it } from 'vitest'
import { InvalidOptionError } from '../../src/index.ts'
import { redisAccessOf } from '../../src/redis/access.ts'
import { keySlot } from '../../src/redis/key-slot.ts'
import { Script } from '../../src/redis/script.ts'
import { failureOf, key, redisApp } from './fixture.ts'

describe('a cluster', async () => {
  const cluster = await startRedisCluster()
  afterAll(() => cluster.stop())
  const app = () => redisApp({ cluster: cluster.nodes })
  const masterOf = (k: string) => Math.floor((keySlot(k) * 3) / 16_384)
  /** A key of each master. */
  const keys = [0, 1, 2].map((master) => {
    for (;;) {
      const k = key('of a master')
      if (masterOf(k) === master) return k
    }
  }) as [string, string, string]

  it('counts the slots of keys as Redis does', async () => {
    const { port } = cluster.nodes[0] as { port: number }
    const watch = new Redis(port)
    for (const k of ['', 'a', 'stock:42', '{42}:stock', 'a{}b', 'a{b}{c}', '{', 'ü{é}', '}{x}']) {
      expect([k, keySlot(k)]).toEqual([k, await watch.cluster('KEYSLOT', k)])
    }
    watch.disconnect()
  })

  it('runs commands, pipelines and MULTI where their keys are', async () => {
    const scopes = await app()
    await scopes.run({ name: 'all masters' }, async ({ redis }) => {
      for (const k of keys) {
        expect(await redis.set(k, k)).toBe('OK')
        expect(await redis.multi().get(k).strlen(k).exec()).toEqual([
          [null, k],
          [null, k.length],
        ])
        expect(await redis.pipeline().get(k).exec()).toEqual([[null, k]])
      }
    })
  })

  it('runs optimistic and exclusive on the master of their keys', async () => {
    const scopes = await app()
    await scopes.run({ name: 'right node' }, async ({ redis }) => {
      for (const k of keys) {
        await redis.set(k, 1)
        const replies = await redis.optimistic([k], async (tx) =>
          tx
            .multi()
            .set(k, Number(await tx.get(k)) + 1)
            .get(k),
        )
        expect(replies).toEqual(['OK', '2'])
        const tag = `{${k}}`
        expect(
          await redis.optimistic([`${tag}:a`, `${tag}:b`], (tx) => tx.multi().mset(`${tag}:a`, 1, `${tag}:b`, 2)),
        ).toEqual(['OK'])
        expect(await redis.exclusive({ key: k }, (connection) => connection.get(k))).toBe('2')
      }
    })
  })

  it('refuses keys in different slots before anything is sent, naming the keys and the remedy', async () => {
    const scopes = await redisApp({
      cluster: cluster.nodes,
      scripts: { both: { numberOfKeys: 2, lua: 'return 1' } },
    })
    const [a, b] = keys
    await scopes.run({ name: 'two slots' }, async ({ redis }) => {
      let runs = 0
      const attempts = [
        () =>
          redis.optimistic([a, b], (tx) => {
            runs++
            return tx.multi()
          }),
        () => redis.optimistic([a], (tx) => tx.multi().set(a, 'x').set(b, 'x')),
        async () => redis.eval('return 1', 2, a, b),
        async () => redis.call('EVAL', 'return 1', '2', a, b),
        async () => redis.pipeline().eval('return 1', 2, a, b).exec(),
        async () => redis.both(a, b),
        async () => redis.multi().set(a, 'x').set(b, 'x').exec(),
      ]
      for (const attempt of attempts) {
        const error = (await failureOf(attempt())) as Error
        expect(error).toBeInstanceOf(InvalidOptionError)
        expect(error.message).toContain(a)
        expect(error.message).toContain(b)
        expect(error.message).toContain('hash tag')
      }
      expect(runs).toBe(0)
      expect(await redis.get(a)).not.toBe('x')
    })
  })

  it('needs a key to know the node of an exclusive connection', async () => {
    const scopes = await app()
    await scopes.run({ name: 'no key' }, async ({ redis }) => {
      expect(await failureOf(redis.exclusive(() => 1))).toMatchObject({ option: 'redis.exclusive.key' })
    })
  })

  it('runs scripts of locks and limits, and listens', async () => {
    const scopes = await app()
    const access = redisAccessOf(scopes.resources.redis)
    expect(access?.isCluster).toBe(true)
    const add = new Script('return redis.call("INCRBY", KEYS[1], ARGV[1])')
    for (const k of keys) expect(await access?.run(add, [`${k}:n`], [2])).toBe(2)
    const subscriber = access?.subscriber()
    const messages: string[] = []
    subscriber?.on('message', (_channel, message) => messages.push(message))
    await subscriber?.subscribe('news')
    await scopes.run({ name: 'publishes' }, ({ redis }) => redis.publish('news', 'heard'))
    await expect.poll(() => messages).toEqual(['heard'])
  })

  it('follows a slot that has moved', async () => {
    const scopes = await app()
    const k = key('moves')
    await scopes.run({ name: 'before' }, ({ redis }) => redis.exclusive({ key: k }, (connection) => connection.ping()))
    await cluster.moveSlot(keySlot(k), (masterOf(k) + 1) % 3)
    await scopes.run({ name: 'after' }, async ({ redis }) => {
      const replies = await redis.optimistic([k], async (tx) => tx.multi().set(k, `${await tx.get(k)}`))
      expect(replies).toEqual(['OK'])
      expect(await redis.get(k)).toBe('null')
    })
  })

  it('of the application is shared, and never closed', async () => {
    const given = new Cluster(cluster.nodes as { host: string; port: number }[], { keyPrefix: 'app:' })
    const scopes = await redisApp({ client: given })
    await scopes.run({ name: 'given' }, async ({ redis }) => {
      for (const k of keys) {
        await redis.set(k, 1)
        expect(await redis.optimistic([k], async (tx) => tx.multi().incrby(k, Number(await tx.get(k))))).toEqual([2])
        expect(await redis.exclusive({ key: k }, (connection) => connection.get(k))).toBe('2')
      }
      expect(await given.get(keys[0])).toBe('2')
    })
    await scopes.close()
    expect(given.status).toBe('ready')
    expect(await given.get(keys[0])).toBe('2')
    given.disconnect()
  })
})
