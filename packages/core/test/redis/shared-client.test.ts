import { describe, expect, it } from 'vitest'
import { currentScope, ScopeEndedError, ScopeLeakError, SharedConnectionError } from '../../src/index.ts'
import { failureOf, Gate, key, ownServer, redisApp } from './fixture.ts'

// biome-ignore lint/suspicious/noExplicitAny: what the types do not have
type Untyped = any

describe('the shared client', () => {
  it('runs commands of ioredis on one connection', async () => {
    const app = await redisApp()
    const k = key()
    await app.run({ name: 'writes' }, async ({ redis }) => {
      expect(await redis.set(k, '1')).toBe('OK')
      expect(await redis.incrby(k, 41)).toBe(42)
      expect(await redis.getBuffer(k)).toEqual(Buffer.from('42'))
      expect(await redis.call('GET', k)).toBe('42')
      expect(await redis.call('MGET', [k, 'nothing'])).toEqual(['42', null])
      expect(await redis.mget([k])).toEqual(['42'])
      await redis.hset(`${k}h`, { a: 1, b: 2 })
      expect(await redis.hgetall(`${k}h`)).toEqual({ a: '1', b: '2' })
      await expect(redis.lpush(k, 'x')).rejects.toThrow(/WRONGTYPE/)
    })
  })

  it('runs pipelines, and MULTI as one unit', async () => {
    const app = await redisApp()
    const k = key()
    await app.run({ name: 'pipelines' }, async ({ redis }) => {
      const replies = await redis.pipeline().set(k, 1).incr(k).lpush(k, 'x').exec()
      expect(replies?.map(([error, reply]) => (error ? 'error' : reply))).toEqual(['OK', 2, 'error'])
      expect(await redis.multi().incr(k).get(k).exec()).toEqual([
        [null, 3],
        [null, '3'],
      ])
      expect(
        await redis
          .pipeline([
            ['get', k],
            ['incr', k],
          ])
          .exec(),
      ).toEqual([
        [null, '3'],
        [null, 4],
      ])
    })
  })

  const refused: [string, (redis: Untyped) => unknown][] = [
    ['WATCH', (redis: Untyped) => redis.watch('k')],
    ['UNWATCH', (redis: Untyped) => redis.unwatch()],
    ['MULTI', (redis: Untyped) => redis.multi({ pipeline: false })],
    ['EXEC', (redis: Untyped) => redis.exec()],
    ['DISCARD', (redis: Untyped) => redis.discard()],
    ['SUBSCRIBE', (redis: Untyped) => redis.subscribe('c')],
    ['PSUBSCRIBE', (redis: Untyped) => redis.psubscribe('c')],
    ['SSUBSCRIBE', (redis: Untyped) => redis.ssubscribe('c')],
    ['UNSUBSCRIBE', (redis: Untyped) => redis.unsubscribe('c')],
    ['BLPOP', (redis: Untyped) => redis.blpop('k', 1)],
    ['BLPOP', (redis: Untyped) => redis.blpopBuffer('k', 1)],
    ['XREAD', (redis: Untyped) => redis.xread('COUNT', 1, 'BLOCK', 0, 'STREAMS', 'k', '$')],
    ['XREADGROUP', (redis: Untyped) => redis.xreadgroup('GROUP', 'g', 'c', 'BLOCK', 0, 'STREAMS', 'k', '>')],
    ['WAIT', (redis: Untyped) => redis.wait(1, 0)],
    ['SELECT', (redis: Untyped) => redis.select(1)],
    ['AUTH', (redis: Untyped) => redis.auth('secret')],
    ['HELLO', (redis: Untyped) => redis.hello(2)],
    ['RESET', (redis: Untyped) => redis.reset()],
    ['CLIENT', (redis: Untyped) => redis.client('REPLY', 'OFF')],
    ['CLIENT', (redis: Untyped) => redis.client('tracking', 'ON')],
    ['MONITOR', (redis: Untyped) => redis.monitor()],
    ['QUIT', (redis: Untyped) => redis.quit()],
    ['DUPLICATE', (redis: Untyped) => redis.duplicate()],
    ['DISCONNECT', (redis: Untyped) => redis.disconnect()],
    ['ON', (redis: Untyped) => redis.on('message', () => {})],
    ['WATCH', (redis: Untyped) => redis.call('watch', 'k')],
    ['WATCH', (redis: Untyped) => redis.call('WATCH', ['k'])],
    ['CLIENT', (redis: Untyped) => redis.call('client', 'reply', 'skip')],
    ['WATCH', (redis: Untyped) => redis.pipeline([['watch', 'k']])],
    ['WATCH', (redis: Untyped) => redis.pipeline().get('k').watch('k')],
    ['MULTI', (redis: Untyped) => redis.pipeline().multi()],
    ['MULTI', (redis: Untyped) => redis.pipeline().call('MULTI')],
    ['BLPOP', (redis: Untyped) => redis.multi([['blpop', 'k', 0]])],
    ['SELECT', (redis: Untyped) => redis.multi().select(3)],
    ['EXEC', (redis: Untyped) => redis.multi().call('exec')],
  ]
  it.each(refused)('refuses %s with the method to use instead (%#)', async (operation, use) => {
    const app = await redisApp()
    await app.run({ name: 'refused' }, async ({ redis }) => {
      const error = await failureOf((async () => use(redis))())
      expect(error).toBeInstanceOf(SharedConnectionError)
      expect((error as SharedConnectionError).operation).toBe(operation)
      expect((error as Error).message).toMatch(/exclusive|optimistic|options|resource|runtime closes/)
      // and the connection is as it was
      expect(await redis.client('INFO')).toMatch(/ flags=N db=0 sub=0 psub=0 .*multi=-1 /)
    })
  })

  it('refuses a handle after its scope has ended, and inside another scope', async () => {
    const app = await redisApp()
    const first = await app.run({ name: 'first' }, (scope) => scope.redis)
    expect(await failureOf(first.get('k'))).toBeInstanceOf(ScopeEndedError)
    const gate = new Gate()
    const held = new Gate<typeof first>()
    const open = app.run({ name: 'open' }, async (scope) => {
      held.open(scope.redis)
      await gate.passed
    })
    const leaked = await held.passed
    await app.run({ name: 'other' }, async () => {
      expect(await failureOf(leaked.get('k'))).toBeInstanceOf(ScopeLeakError)
    })
    gate.open()
    await open
  })

  it('does not execute a pipeline that was built in another scope', async () => {
    const app = await redisApp()
    const k = key()
    const pipeline = await app.run({ name: 'builds' }, ({ redis }) => ({ it: redis.pipeline().set(k, 'x') }))
    await app.run({ name: 'executes' }, async ({ redis }) => {
      expect(await failureOf(pipeline.it.exec())).toBeInstanceOf(ScopeLeakError)
      expect(await redis.exists(k)).toBe(0)
    })
  })

  it('does not execute a pipeline again in another scope, nor what was added to it after it was sent', async () => {
    const app = await redisApp()
    const k = key()
    for (const kind of ['pipeline', 'multi'] as const) {
      const used = await app.run({ name: 'uses' }, async ({ redis }) => {
        const it = redis[kind]().incr(k)
        const sent = it.exec()
        expect(() => it.watch(k)).toThrow(SharedConnectionError)
        expect(() => it.blpop(k, 0)).toThrow(SharedConnectionError)
        await sent
        expect(() => it.watch(k)).toThrow(SharedConnectionError)
        return { it }
      })
      await app.run({ name: 'uses it again' }, async ({ redis }) => {
        const before = await redis.get(k)
        expect(await failureOf(used.it.exec())).toBeInstanceOf(ScopeLeakError)
        expect(await redis.get(k)).toBe(before)
        expect(await redis.client('INFO')).toMatch(/ flags=N db=0 sub=0 psub=0 .*multi=-1 /)
      })
    }
  })

  it('walks through keys and members with streams', async () => {
    const app = await redisApp()
    const k = key()
    await app.run({ name: 'walks' }, async ({ redis, id }) => {
      const names = Array.from({ length: 300 }, (_, index) => `${k}:${index}`)
      await redis.mset(Object.fromEntries(names.map((name) => [name, 1])))
      await redis.sadd(`${k}s`, names)
      await redis.hset(`${k}h`, Object.fromEntries(names.map((name) => [name, 'x'])))
      await redis.zadd(`${k}z`, ...names.flatMap((name, index) => [index, name]))
      const all = async (stream: AsyncIterable<unknown[]>) => {
        const found: unknown[] = []
        for await (const page of stream) found.push(...page)
        return new Set(found.map(String))
      }
      expect(await all(redis.scanStream({ match: `${k}:*`, count: 50 }))).toEqual(new Set(names))
      expect(await all(redis.scanBufferStream({ match: `${k}:*` }))).toEqual(new Set(names))
      expect(await all(redis.sscanStream(`${k}s`))).toEqual(new Set(names))
      expect((await all(redis.hscanStream(`${k}h`))).size).toBe(301)
      expect((await all(redis.zscanStream(`${k}z`, { match: `${k}:1` }))).size).toBe(2)
      const ids = new Set<string>()
      await new Promise((resolve) =>
        redis
          .scanStream({ match: `${k}:*`, count: 50 })
          .on('data', () => ids.add(currentScope().id))
          .on('end', resolve),
      )
      expect([...ids]).toEqual([id])
    })
  })

  it('ends a stream with its scope', async () => {
    const app = await redisApp()
    const k = key()
    const stream = await app.run({ name: 'ends' }, async ({ redis }) => {
      await redis.set(k, 1)
      return { it: redis.scanStream({ match: k }) }
    })
    const error = await failureOf(
      (async () => {
        for await (const _ of stream.it) throw new Error('it went on')
      })(),
    )
    expect(error).toBeInstanceOf(ScopeEndedError)
  })

  it('runs scripts in pipelines and in MULTI, also after Redis has forgotten them', async () => {
    const server = await ownServer()
    const app = await redisApp({
      url: server.url,
      scripts: { add: { numberOfKeys: 1, lua: 'return redis.call("INCRBY", KEYS[1], ARGV[1])' } },
    })
    await app.run({ name: 'scripted' }, async ({ redis }) => {
      type Scripted = { add(key: string, by: number): ReturnType<typeof redis.multi> }
      const once = async () => {
        expect(await redis.add('k', 1)).toEqual(expect.any(Number))
        expect(await (redis.pipeline() as unknown as Scripted).add('k', 1).exec()).toEqual([[null, expect.any(Number)]])
        expect(await (redis.multi() as unknown as Scripted).add('k', 1).get('k').exec()).toEqual([
          [null, expect.any(Number)],
          [null, expect.any(String)],
        ])
      }
      await once()
      await redis.script('FLUSH')
      expect(await (redis.multi() as unknown as Scripted).add('k', 1).exec()).toEqual([[null, 4]])
      await once()
      expect(await redis.get('k')).toBe('7')
    })
  })
})
