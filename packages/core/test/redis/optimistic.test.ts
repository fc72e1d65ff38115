import type { ChainableCommander } from 'ioredis'
import { describe, expect, it } from 'vitest'
import {
  ConnectionLostError,
  ExecCommandError,
  InvalidOptionError,
  OptimisticConflictError,
  SharedConnectionError,
} from '../../src/index.ts'
import { clientsOf, failureOf, key, outside, ownServer, redisApp } from './fixture.ts'

describe('optimistic', () => {
  it('reads, then writes what it returned', async () => {
    const app = await redisApp()
    const k = key('stock')
    await app.run({ name: 'reserves' }, async ({ redis }) => {
      await redis.set(k, 5)
      const replies = await redis.optimistic([k], async (tx) => {
        const left = Number(await tx.get(k))
        return tx
          .multi()
          .set(k, left - 1)
          .get(k)
      })
      expect(replies).toEqual(['OK', '4'])
    })
  })

  it('writes nothing when it abandons, and leaves nothing watched', async () => {
    const app = await redisApp({ exclusive: { max: 1 } })
    const watch = await outside()
    const k = key('stock')
    await app.run({ name: 'abandons' }, async ({ redis }) => {
      expect(await redis.optimistic([k], async (tx) => ((await tx.exists(k)) ? tx.multi() : tx.abandon()))).toBe(
        undefined,
      )
      await redis.exclusive(async () => {
        await watch.set(k, 'changed')
        expect((await clientsOf(app, watch)).map(({ flags }) => flags)).toEqual(['N', 'N'])
      })
    })
  })

  it.each(['throws', 'returns something else'])('leaves nothing watched when its function %s', async (how) => {
    const app = await redisApp({ exclusive: { max: 1 } })
    const watch = await outside()
    const k = key('stock')
    await app.run({ name: 'fails' }, async ({ redis }) => {
      const error = await failureOf(
        redis.optimistic([k], async (tx) => {
          await tx.get(k)
          if (how === 'throws') throw new RangeError('mine')
          return 1 as never
        }),
      )
      expect(error).toBeInstanceOf(how === 'throws' ? RangeError : InvalidOptionError)
      await redis.exclusive(async () => {
        await watch.set(k, 'changed')
        expect((await clientsOf(app, watch)).map(({ flags }) => flags)).toEqual(['N', 'N'])
      })
    })
  })

  it('runs again when a key has changed meanwhile', async () => {
    const app = await redisApp()
    const watch = await outside()
    const k = key('count')
    const attempts: number[] = []
    await app.run({ name: 'conflicts' }, ({ redis }) =>
      redis.optimistic([k], async (tx) => {
        attempts.push(tx.attempt)
        const value = Number(await tx.get(k))
        if (tx.attempt < 3) await watch.incr(k)
        return tx.multi().set(k, value + 10)
      }),
    )
    expect(attempts).toEqual([1, 2, 3])
    expect(await watch.get(k)).toBe('12')
  })

  it('is a typed conflict when the keys change in every attempt', async () => {
    const app = await redisApp()
    const watch = await outside()
    const k = key('count')
    const error = await app.run({ name: 'conflicts' }, ({ redis }) =>
      failureOf(
        redis.optimistic([k], { attempts: 3, maxDelayMs: 1 }, async (tx) => {
          await tx.get(k)
          await watch.incr(k)
          return tx.multi().set(k, 'overwritten')
        }),
      ),
    )
    expect(error).toBeInstanceOf(OptimisticConflictError)
    expect(error).toMatchObject({ statusCode: 409, keys: [k], attempts: 3 })
    expect(await watch.get(k)).toBe('3')
  })

  it('names the command that failed in EXEC, and says that the others were done', async () => {
    const app = await redisApp()
    const k = key('text')
    await app.run({ name: 'fails' }, async ({ redis }) => {
      await redis.set(k, 'text')
      const error = await failureOf(redis.optimistic([k], (tx) => tx.multi().set(`${k}2`, 1).incr(k).set(`${k}3`, 1)))
      expect(error).toBeInstanceOf(ExecCommandError)
      expect(error).toMatchObject({ index: 1, applied: true })
      expect(await redis.get(`${k}3`)).toBe('1')
    })
  })

  it('names the command that was refused before EXEC, and says that nothing was done', async () => {
    const app = await redisApp()
    const k = key()
    await app.run({ name: 'fails' }, async ({ redis }) => {
      const error = await failureOf(redis.optimistic([k], (tx) => tx.multi().set(k, 1).call('NOSUCHCOMMAND', 'x')))
      expect(error).toBeInstanceOf(ExecCommandError)
      expect(error).toMatchObject({ index: 1, applied: false })
      expect(await redis.exists(k)).toBe(0)
    })
  })

  it.each([
    ['before EXEC', undefined],
    ['while EXEC is under way', 'unknown'],
  ])('never overwrites when its connection is killed %s', async (when, outcome) => {
    const app = await redisApp()
    const watch = await outside()
    const k = key('count')
    await watch.set(k, 1)
    let runs = 0
    const error = await app.run({ name: 'killed' }, ({ redis }) =>
      failureOf(
        redis.optimistic([k], async (tx) => {
          runs++
          await tx.get(k)
          const id = app.snapshot().leases[0]?.backend
          if (when === 'before EXEC') {
            await watch.set(k, 'of another')
            await watch.client('KILL', 'ID', String(id))
            await tx.get(k).catch(() => {})
            return tx.multi().set(k, 'overwritten')
          }
          return tx.multi().call('CLIENT', 'KILL', 'ID', String(id), 'SKIPME', 'no').set(k, 'overwritten')
        }),
      ),
    )
    expect(error).toBeInstanceOf(ConnectionLostError)
    expect(error).toMatchObject({ outcome })
    expect(runs).toBe(1)
    if (outcome === undefined) expect(await watch.get(k)).toBe('of another')
  })

  it('reads nothing before it watches, not even through the shared connection', async () => {
    // Of its own: ioredis can't cope with what others do while MONITOR begins.
    const server = await ownServer()
    const app = await redisApp({ url: server.url })
    const watch = await outside(server.url)
    const k = key()
    const seen: string[] = []
    const monitor = await watch.monitor()
    monitor.on('monitor', (_time: string, args: string[]) => {
      if (args[1] === k) seen.push(args[0] as string)
    })
    await app.run({ name: 'reads elsewhere' }, ({ redis }) =>
      redis.optimistic([k], async (tx) => {
        const [value] = await Promise.all([redis.get(k), redis.pipeline().strlen(k).exec()])
        return tx.multi().set(k, `${value}!`)
      }),
    )
    await expect.poll(() => seen).toContain('set')
    expect(seen[0]).toBe('watch')
    monitor.disconnect()
  })

  it('refuses what would be written in every attempt, and an exec() of its own', async () => {
    const app = await redisApp()
    const k = key()
    await app.run({ name: 'refused' }, async ({ redis }) => {
      // biome-ignore lint/suspicious/noExplicitAny: what the types do not have
      const use = (fn: (tx: any) => unknown) => failureOf(redis.optimistic([k], (tx) => fn(tx) as never))
      expect(await use((tx) => tx.set(k, 1))).toBeInstanceOf(SharedConnectionError)
      expect(await use((tx) => tx.multi().set(k, 1).exec())).toBeInstanceOf(SharedConnectionError)
      expect(await use((tx) => tx.multi().watch(k))).toBeInstanceOf(SharedConnectionError)
      expect(await redis.exists(k)).toBe(0)
      expect(await failureOf(redis.optimistic([], (tx) => tx.multi()))).toBeInstanceOf(InvalidOptionError)
      expect(await failureOf(redis.optimistic([k], { attempts: 0 }, (tx) => tx.multi()))).toMatchObject({
        option: 'redis.optimistic.attempts',
      })
    })
  })

  it('takes two round trips', async () => {
    const server = await ownServer()
    const app = await redisApp({ url: server.url })
    const watch = await outside(server.url)
    // What Redis read from its sockets: a request that arrives in two pieces counts twice, and so does this question.
    const reads = async () => Number(/total_reads_processed:(\d+)/.exec(await watch.info('stats'))?.[1])
    await app.run({ name: 'counts' }, async ({ redis }) => {
      const use = () =>
        redis.optimistic(['a', 'b'], async (tx) => {
          const [a, b] = await Promise.all([tx.get('a'), tx.hgetall('b')])
          return tx
            .multi()
            .set('a', `${a}!`)
            .hset('b', { ...b, more: 1 })
            .expire('a', 60)
        })
      const counts: number[] = []
      for (let count = 0; count < 5; count++) {
        const before = await reads()
        await use()
        counts.push((await reads()) - before - 1)
      }
      expect(Math.min(...counts)).toBe(2) // something else may be read in between
    })
  })

  it('answers with what the types of ioredis say, and takes commands in every form', async () => {
    const app = await redisApp({
      scripts: { add: { numberOfKeys: 1, lua: 'return redis.call("INCRBY", KEYS[1], 2)' } },
    })
    const k = key()
    await app.run({ name: 'forms' }, async ({ redis }) => {
      const told: unknown[] = []
      await redis.optimistic([k], (tx) => {
        const queued = tx
          .multi([
            ['set', k, 'x'],
            ['strlen', k],
          ])
          .getBuffer(k)
          .call('GETRANGE', k, 0, 0)
          .get(k, (error, reply) => told.push(error, reply))
        expect(queued.length).toBe(5)
        return queued
      })
      expect(
        await redis.optimistic([Buffer.from(k) as never], (tx) =>
          tx
            .multi()
            .set(k, Buffer.from([0xff, 0x00, 0xfe]))
            .getBuffer(k)
            .hset(`${k}h`, new Map([['a', 1]]))
            .hgetall(`${k}h`)
            .del(k),
        ),
      ).toEqual(['OK', Buffer.from([0xff, 0x00, 0xfe]), 1, { a: '1' }, 1])
      expect(told).toEqual([null, 'x'])
      const scripted = () =>
        redis.optimistic([k], (tx) => {
          type Scripted = { add(key: string): ChainableCommander & Scripted }
          return (tx.multi() as unknown as Scripted).add(k).add(k)
        })
      expect(await scripted()).toEqual([2, 4])
      await redis.script('FLUSH')
      expect(await scripted()).toEqual([6, 8])
      expect(await redis.optimistic([k], (tx) => tx.multi())).toEqual([])
    })
  })

  it('reads with callbacks, buffers and options, and refuses what it would wait for', async () => {
    const app = await redisApp()
    const k = key()
    await app.run({ name: 'reads' }, async ({ redis }) => {
      await redis.set(k, 'value')
      await redis.optimistic([k], async (tx) => {
        expect(await tx.getBuffer(k)).toEqual(Buffer.from('value'))
        expect(await new Promise((resolve) => tx.get(k, (_error, reply) => resolve(reply)))).toBe('value')
        expect(await tx.mget([k, `${k}2`])).toEqual(['value', null])
        await expect(tx.llen(k)).rejects.toThrow(/WRONGTYPE/)
        expect(await failureOf(tx.xread('BLOCK', 0, 'STREAMS', k, '$'))).toBeInstanceOf(SharedConnectionError)
        return tx.abandon()
      })
    })
  })

  it('is aborted with its scope, whatever it waits for', async () => {
    const app = await redisApp({ exclusive: { max: 1 } })
    const watch = await outside()
    const k = key()
    for (const where of ['before it reads', 'between its reads', 'before EXEC']) {
      const controller = new AbortController()
      const error = await failureOf(
        app.run({ name: where, signal: controller.signal }, ({ redis }) =>
          redis.optimistic([k], async (tx) => {
            if (where === 'before it reads') controller.abort()
            await tx.get(k)
            if (where === 'between its reads') controller.abort()
            await tx.get(k)
            controller.abort()
            return tx.multi().set(k, where)
          }),
        ),
      )
      expect(error).toMatchObject({ code: 'RSC_SCOPE_ABORTED' })
    }
    expect(await watch.get(k)).toBe(null)
    expect(app.snapshot().leases).toEqual([])
  })

  it('hands on no connection on which MULTI was refused, for what was watched still is', async () => {
    const server = await ownServer()
    const watch = await outside(server.url)
    await watch.acl('SETUSER', 'limited', 'on', '>secret', '~*', '&*', '+@all', '-multi')
    const url = server.url.replace('redis://', 'redis://limited:secret@')
    const app = await redisApp({ url, exclusive: { max: 1 } })
    await app.run({ name: 'limited' }, async ({ redis }) => {
      let id: number | undefined
      const error = await failureOf(
        redis.optimistic(['k'], (tx) => {
          id = app.snapshot().leases[0]?.backend
          return tx.multi().set('other', 1)
        }),
      )
      expect((error as Error).message).toContain('NOPERM')
      expect(await redis.exclusive((connection) => connection.id)).not.toBe(id)
    })
  })
})
