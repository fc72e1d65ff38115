import { describe, expect, it, vi } from 'vitest'
import {
  ConnectionLostError,
  DeadlineExceededError,
  PoolExhaustedError,
  ScopeAbortedError,
  SharedConnectionError,
} from '../../src/index.ts'
import type { ExclusiveConnection } from '../../src/redis/index.ts'
import { heard } from '../heard.ts'
import { clientsOf, failureOf, Gate, key, outside, poolOf, redisApp } from './fixture.ts'

describe('an exclusive connection', () => {
  it('is one of its own, and goes back for the next', async () => {
    const app = await redisApp()
    const first = await app.run({ name: 'a' }, ({ redis }) => redis.exclusive((connection) => connection.id))
    const second = await app.run({ name: 'b' }, ({ redis }) => redis.exclusive((connection) => connection.client('ID')))
    expect(second).toBe(first)
    expect(await poolOf(app)).toMatchObject({ open: 1, idle: 1, leased: 0 })
  })

  it('does WATCH, MULTI and EXEC by hand', async () => {
    const app = await redisApp()
    const k = key()
    await app.run({ name: 'by hand' }, ({ redis }) =>
      redis.exclusive(async (connection) => {
        await connection.watch(k)
        await connection.multi({ pipeline: false })
        await connection.set(k, 1)
        expect(await connection.exec()).toEqual([[null, 'OK']])
        expect(await connection.multi().incr(k).exec()).toEqual([[null, 2]])
      }),
    )
  })

  const leftovers: [string, (connection: ExclusiveConnection, k: string) => unknown, 'same' | 'replaced'][] = [
    ['a WATCH', (connection, k) => connection.watch(k), 'same'],
    ['a WATCH through call', (connection, k) => connection.call('Watch', k), 'same'],
    [
      'a WATCH that a DISCARD outside of MULTI does not clear',
      async (connection, k) => {
        await connection.watch(k)
        await connection.discard().catch(() => {})
      },
      'replaced',
    ],
    ['another database', (connection) => connection.select(3), 'same'],
    ['another database through a pipeline', (connection) => connection.pipeline().select(4).exec(), 'same'],
    ['an open MULTI', (connection) => connection.multi({ pipeline: false }), 'replaced'],
    ['an open MULTI through call', (connection) => connection.call('MULTI'), 'replaced'],
    ['a subscription', (connection) => connection.subscribe('channel'), 'replaced'],
    ['tracking', (connection) => connection.client('TRACKING', 'ON'), 'replaced'],
    ['another name', (connection) => connection.client('SETNAME', 'other'), 'replaced'],
    ['a command that is not answered', (connection, k) => void connection.blpop(k, 0).catch(() => {}), 'replaced'],
    ['another protocol', (connection) => connection.hello(2), 'replaced'],
  ]
  it.each(leftovers)('is given back without %s', async (_what, leave, what) => {
    const app = await redisApp({ exclusive: { max: 1 } })
    const watch = await outside()
    const k = key()
    const before = await app.run({ name: 'leaves' }, ({ redis }) =>
      redis.exclusive(async (connection) => {
        await leave(connection, k)
        return connection.id
      }),
    )
    await app.run({ name: 'finds' }, ({ redis }) =>
      redis.exclusive(async (connection) => {
        await watch.set(k, 'changed') // a WATCH that is left would make the server mark the connection
        const facts = (await clientsOf(app, watch)).find(({ id }) => Number(id) === connection.id)
        expect(facts).toMatchObject({ flags: 'N', db: '0', sub: '0', multi: '-1', name: app.connectionName })
        expect(connection.id === before).toBe(what === 'same')
        expect(await connection.multi().set(k, 1).exec()).toEqual([[null, 'OK']])
      }),
    )
    await vi.waitFor(async () => expect(await clientsOf(app, watch)).toHaveLength(2))
  })

  it('can subscribe, and its listeners run in their scope', async () => {
    const app = await redisApp()
    const watch = await outside()
    const channel = key('channel')
    const told = await app.run({ name: 'subscribes' }, ({ redis }) =>
      redis.exclusive(async (connection) => {
        const message = new Gate<string>()
        connection.on('message', (_channel, text) => {
          void redis.set(channel, text).then(() => message.open(text), message.fail)
        })
        await connection.subscribe(channel)
        await watch.publish(channel, 'hello')
        return message.passed
      }),
    )
    expect(told).toBe('hello')
  })

  it('is refused after its function has returned', async () => {
    const app = await redisApp()
    await app.run({ name: 'keeps' }, async ({ redis }) => {
      const connection = await redis.exclusive((it) => ({ it }))
      expect(await failureOf(connection.it.get('k'))).toBeInstanceOf(SharedConnectionError)
      expect(() => connection.it.multi()).toThrow(SharedConnectionError)
    })
  })

  it('is waited for no longer than acquireTimeoutMs, and by no more than maxWaiting', async () => {
    const app = await redisApp({ exclusive: { max: 1, acquireTimeoutMs: 60, maxWaiting: 1 } })
    const gate = new Gate()
    const held = new Gate()
    const holder = app.run({ name: 'holds' }, ({ redis }) =>
      redis.exclusive(async () => {
        held.open()
        await gate.passed
      }),
    )
    await held.passed
    const waits = app.run({ name: 'waits' }, ({ redis }) => failureOf(redis.exclusive(() => 1)))
    const refusedAtOnce = app.run({ name: 'too many' }, ({ redis }) => failureOf(redis.exclusive(() => 1)))
    expect(await refusedAtOnce).toMatchObject({ reason: 'queue-full', statusCode: 503 })
    const error = await waits
    expect(error).toBeInstanceOf(PoolExhaustedError)
    expect(error).toMatchObject({ reason: 'timeout', max: 1, retryAfterMs: 1_000 })
    gate.open()
    await holder
    expect(await app.run({ name: 'later' }, ({ redis }) => redis.exclusive(() => 'served'))).toBe('served')
  })

  it('is in the ledger while it is held, with the line that took it', async () => {
    const app = await redisApp()
    await app.run({ name: 'holds' }, ({ redis }) =>
      redis.exclusive(async (connection) => {
        await connection.get('k')
        const [lease, ...others] = app.snapshot().leases
        expect(others).toEqual([])
        expect(lease).toMatchObject({ resource: 'redis', state: 'pinned', backend: connection.id, statement: 'get' })
        expect(lease?.scope.name).toBe('holds')
        expect(lease?.site).toContain('exclusive.test.ts')
      }),
    )
    expect(app.snapshot().leases).toEqual([])
  })

  it('is reported when it is held for too long, and when it comes back after all', async () => {
    const leaking = heard('reqscope:lease:leaking')
    const late = heard('reqscope:lease:returned-late')
    const app = await redisApp({ leakThresholdMs: 40 })
    await app.run({ name: 'slow' }, ({ redis }) =>
      redis.exclusive(() => vi.waitFor(() => expect(leaking).toHaveLength(1), 5_000)),
    )
    expect(late).toHaveLength(1)
    expect(app.logs.map(({ message }) => message)).toContainEqual(expect.stringContaining('is it leaking?'))
  })

  it.each([
    ['its deadline', { timeoutMs: 50 }, DeadlineExceededError],
    ['its signal', { abort: true }, ScopeAbortedError],
  ])(
    'ends a blocked command with its scope, by %s',
    async (_what, { timeoutMs, abort }: { timeoutMs?: number; abort?: boolean }, type) => {
      const app = await redisApp()
      const watch = await outside()
      const controller = new AbortController()
      const k = key('list')
      const running = app.run(
        { name: 'blocks', ...(timeoutMs && { timeoutMs }), signal: controller.signal },
        ({ redis }) => redis.exclusive((connection) => connection.blpop(k, 0)),
      )
      await vi.waitFor(async () => {
        const facts = await clientsOf(app, watch)
        if (!timeoutMs) expect(facts.map(({ flags }) => flags)).toContain('b')
      })
      if (abort) controller.abort()
      expect(await failureOf(running)).toBeInstanceOf(type)
      expect(app.snapshot().leases).toEqual([])
      await vi.waitFor(async () => expect((await clientsOf(app, watch)).map(({ flags }) => flags)).not.toContain('b'))
      expect(await app.run({ name: 'next' }, ({ redis }) => redis.exclusive((it) => it.ping()))).toBe('PONG')
    },
  )

  it('is taken back when its scope ends without waiting for it, and that is reported', async () => {
    const reclaimed = heard('reqscope:lease:reclaimed')
    const app = await redisApp()
    const never = new Gate()
    const failed = new Gate<unknown>()
    await app.run({ name: 'forgets' }, async ({ redis }) => {
      const held = new Gate()
      void redis
        .exclusive(async (connection) => {
          held.open()
          await never.passed
          await connection.get('k')
        })
        .catch(failed.open)
      await held.passed
    })
    expect(app.snapshot().leases).toEqual([])
    expect(reclaimed).toHaveLength(1)
    never.open()
    expect((await failed.passed) as Error).toMatchObject({ code: 'RSC_SCOPE_ENDED' })
  })

  it('rejects what it was asked when it is killed, and is replaced', async () => {
    const app = await redisApp()
    const watch = await outside()
    const error = await app.run({ name: 'killed' }, ({ redis }) =>
      failureOf(
        redis.exclusive(async (connection) => {
          await connection.set('a', 1)
          await watch.client('KILL', 'ID', String(connection.id))
          await connection.get('a')
        }),
      ),
    )
    expect(error).toBeInstanceOf(ConnectionLostError)
    expect(error).toMatchObject({ reason: 'lost', outcome: undefined })
    expect(await app.run({ name: 'next' }, ({ redis }) => redis.exclusive((it) => it.ping()))).toBe('PONG')
  })

  it('says that its own scope holds what it waits for', async () => {
    const app = await redisApp({ exclusive: { max: 1, acquireTimeoutMs: 30 } })
    await app.run({ name: 'nests' }, async ({ redis }) => {
      const error = await failureOf(redis.exclusive(() => redis.optimistic(['k'], (tx) => tx.abandon())))
      expect(error).toBeInstanceOf(PoolExhaustedError)
      expect(error).toMatchObject({ heldByScope: 1, reason: 'timeout' })
    })
  })

  it('runs scripts, also those that were defined while it was open', async () => {
    const app = await redisApp({ exclusive: { max: 1 }, scripts: { one: { numberOfKeys: 0, lua: 'return 1' } } })
    await app.run({ name: 'scripted' }, async ({ redis }) => {
      type Scripted = Record<'one' | 'two', () => Promise<number>>
      expect(await redis.exclusive((connection) => (connection as unknown as Scripted).one())).toBe(1)
      redis.defineCommand('two', { numberOfKeys: 0, lua: 'return 2' })
      expect(await redis.exclusive((connection) => (connection as unknown as Scripted).two())).toBe(2)
      const both = await redis.exclusive((connection) => {
        const multi = connection.multi() as unknown as Record<'one' | 'two', () => typeof multi> & {
          exec(): Promise<unknown>
        }
        return multi.one().two().exec()
      })
      expect(both).toEqual([
        [null, 1],
        [null, 2],
      ])
    })
  })
})
