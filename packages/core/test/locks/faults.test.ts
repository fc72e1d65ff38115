import { startRedis } from '@reqscope/services'
import { testRedis } from '@reqscope/services/testing'
import { expect, it, onTestFinished } from 'vitest'
import { LockLostError, LockTimeoutError, LockUnavailableError } from '../../src/index.ts'
import { RedisLockStore } from '../../src/locks/redis-store.ts'
import type { LockRequest } from '../../src/locks/store.ts'
import { redisAccess } from '../../src/redis/access.ts'
import { Script } from '../../src/redis/script.ts'
import { block, failureOf, freshKey, Gate, lockApp, queueLength, redisObserver, until } from './fixture.ts'

async function ownRedis(options: { aof?: boolean } = {}) {
  const server = await startRedis({ own: true, ...options })
  onTestFinished(() => server.stop())
  return server
}

const request = (key: string, more: Partial<LockRequest> = {}): LockRequest => ({
  keys: [key],
  ttlMs: 1_000,
  waitMs: 0,
  mode: 'exclusive',
  limit: undefined,
  signal: undefined,
  isCancelled: false,
  cancelReason: undefined,
  onCancel: undefined,
  holder: undefined,
  scope: undefined,
  ...more,
})

it('tells a store that is down from a lock that is held', async () => {
  const server = await ownRedis()
  const app = await lockApp({ url: server.url, commandTimeoutMs: 200 })
  await app.start()
  server.kill('SIGKILL')
  await until(() => app.redis.client.status !== 'ready')
  const error = await failureOf(app.run({ name: 'work' }, (scope) => scope.lock(freshKey(), async () => {})))
  expect(error).toBeInstanceOf(LockUnavailableError)
  expect(error).toMatchObject({ statusCode: 503, store: 'redis', cause: { code: 'RSC_CONNECTION_LOST' } })
})

it('answers within the command timeout when the store hangs, and says so of a waiter, too', async () => {
  const server = await ownRedis()
  const app = await lockApp({ url: server.url, commandTimeoutMs: 150 })
  const watch = await redisObserver(server.url)
  const key = freshKey()
  const outside = await lockApp({ url: server.url })
  await outside.run({ name: 'holds' }, (holder) =>
    holder.lock(key, async () => {
      const waiting = failureOf(app.run({ name: 'waits' }, (scope) => scope.lock(key, { waitMs: 300 }, async () => {})))
      await until(async () => (await queueLength(watch, key)) === 1)
      server.kill('SIGSTOP')
      const startedAt = performance.now()
      const error = await failureOf(app.run({ name: 'asks' }, (scope) => scope.lock(freshKey(), async () => {})))
      expect(error).toBeInstanceOf(LockUnavailableError)
      expect(performance.now() - startedAt).toBeLessThan(1_000)
      expect(await waiting).toBeInstanceOf(LockUnavailableError)
      server.kill('SIGCONT')
    }),
  )
})

it('renews through transient errors for as long as the lease lasts', async () => {
  const app = await lockApp()
  const key = freshKey()
  const access = app.redis[redisAccess]
  const { run } = access
  let failures = 0
  await app.run({ name: 'work' }, (scope) =>
    scope.lock(key, { ttlMs: 400 }, async (lock) => {
      const first = lock.expiresAt
      access.run = async (...args) => {
        if (++failures <= 3) throw new Error('a transient one')
        return run.apply(access, args)
      }
      await until(() => lock.expiresAt > first)
      expect(failures).toBe(4)
      expect(lock.signal.aborted).toBe(false)
    }),
  )
})

it('is lost when the store stays away for longer than the lease, and never throws for the release that failed', async () => {
  const server = await ownRedis()
  const app = await lockApp({ url: server.url, commandTimeoutMs: 100 })
  const mine = new Error('mine')
  const error = await failureOf(
    app.run({ name: 'work' }, (scope) =>
      scope.lock('k', { ttlMs: 300 }, async (lock) => {
        server.kill('SIGKILL')
        await new Promise((resolve) => lock.signal.addEventListener('abort', resolve, { once: true }))
        expect(lock.signal.reason).toMatchObject({ reason: 'expired' })
        throw mine
      }),
    ),
  )
  expect(error).toBe(mine)
  await until(() => app.logs.some(({ message }) => message.startsWith('a lock could not be released')))
  const line = app.logs.find(({ message }) => message.startsWith('a lock could not be released'))
  expect(line?.facts).toMatchObject({ keys: ['k'] })
})

it('goes to a waiter whose holder died, once the lease has ended', async () => {
  const app = await lockApp()
  const key = freshKey()
  const gone = await lockApp()
  await gone.start()
  const store = new RedisLockStore(gone.redis[redisAccess])
  await store.acquire(request(key, { ttlMs: 300 })) // and nobody ever renews it
  const startedAt = performance.now()
  await app.run({ name: 'waits' }, (scope) => scope.lock(key, { waitMs: 5_000 }, async () => {}))
  expect(performance.now() - startedAt).toBeLessThan(700)
})

it('goes past a waiter whose process is gone at once', async () => {
  const [holder, app, dying] = [await lockApp(), await lockApp(), await lockApp()]
  const watch = await redisObserver()
  const key = freshKey()
  const waiting: Promise<unknown>[] = []
  let releasedAt = 0
  await holder.run({ name: 'holds' }, (scope) =>
    scope.lock(key, async () => {
      void dying.run({ name: 'dies' }, (asking) => asking.lock(key, async () => {})).catch(() => {})
      await until(async () => (await queueLength(watch, key)) === 1)
      waiting.push(app.run({ name: 'waits' }, (asking) => asking.lock(key, async () => performance.now())))
      await until(async () => (await queueLength(watch, key)) === 2)
      const [subscriber] = dying.redis.subscribers
      subscriber?.disconnect()
      await until(async () => Number((await watch.pubsub('NUMSUB', await channelOf(watch, key)))[1]) === 0)
      releasedAt = performance.now()
    }),
  )
  const [grantedAt] = (await Promise.all(waiting)) as number[]
  expect((grantedAt as number) - releasedAt).toBeLessThan(500)
})

/** The channel of whoever waits longest. */
async function channelOf(watch: Awaited<ReturnType<typeof redisObserver>>, key: string): Promise<string> {
  const [first] = await watch.zrange(`reqscope:lock:{${key}}:q`, '0', '0')
  return `reqscope:locks:${first?.split('.')[0]}`
}

it('goes past a waiter that listens and does not answer within a short claim time', async () => {
  const [holder, app] = [await lockApp(), await lockApp()]
  const watch = await redisObserver()
  const key = freshKey()
  const silentProcess = freshKey()
  const silent = watch.duplicate()
  onTestFinished(() => silent.disconnect())
  await silent.subscribe(`reqscope:locks:${silentProcess}`) // as a process would that stands still
  let releasedAt = 0
  const waiting: Promise<unknown>[] = []
  await holder.run({ name: 'holds' }, (scope) =>
    scope.lock(key, { ttlMs: 60_000 }, async () => {
      const name = `reqscope:lock:{${key}}`
      const until60 = String((Date.now() + 60_000) * 1000)
      for (const token of [`${silentProcess}.1`, `${silentProcess}.2`]) {
        await watch.zadd(`${name}:q`, Number(await watch.hincrby(name, 'q', '1')), token)
        await watch.hset(`${name}:w`, token, `${until60} x 0 60000 1 silent`)
      }
      waiting.push(
        app.run({ name: 'waits' }, (asking) => asking.lock(key, { waitMs: 10_000 }, async () => performance.now())),
      )
      await until(async () => (await queueLength(watch, key)) === 3)
      releasedAt = performance.now()
    }),
  )
  const [grantedAt] = (await Promise.all(waiting)) as number[]
  // One claim time for all waiters of the process, and not one for each.
  expect((grantedAt as number) - releasedAt).toBeGreaterThan(900)
  expect((grantedAt as number) - releasedAt).toBeLessThan(1_600)
})

it('reaches a waiter whose subscriber was cut while the lock was given back, in its place', async () => {
  const [holder, app, behind] = [await lockApp(), await lockApp(), await lockApp()]
  const watch = await redisObserver()
  const key = freshKey()
  const order: string[] = []
  const waiting: Promise<unknown>[] = []
  const ask = async (who: typeof app, name: string) => {
    const before = await queueLength(watch, key)
    waiting.push(who.run({ name }, (asking) => asking.lock(key, { waitMs: 10_000 }, async () => void order.push(name))))
    await until(async () => (await queueLength(watch, key)) === before + 1)
  }
  await holder.run({ name: 'holds' }, (scope) =>
    scope.lock(key, async () => {
      await ask(app, 'first')
      await ask(behind, 'second')
      const [subscriber] = app.redis.subscribers
      const again = new Promise((resolve) => subscriber?.once('ready', resolve))
      subscriber?.disconnect(true)
      await again
      await until(async () => Number((await watch.pubsub('NUMSUB', await channelOf(watch, key)))[1]) === 1)
    }),
  )
  await Promise.all(waiting)
  expect(order).toEqual(['first', 'second'])
})

it('finds its place again in a Redis that came back with nothing, and the fence still grows', async () => {
  const server = await ownRedis()
  const [holder, app] = [await lockApp({ url: server.url }), await lockApp({ url: server.url })]
  const watch = await redisObserver(server.url)
  let fence = 0
  let waiting: Promise<number> | undefined
  const error = await failureOf(
    holder.run({ name: 'holds' }, (scope) =>
      scope.lock('k', { ttlMs: 1_500 }, async (lock) => {
        fence = lock.fence
        waiting = app.run({ name: 'waits' }, (asking) =>
          asking.lock('k', { waitMs: 10_000 }, async (mine) => mine.fence),
        )
        await until(async () => (await queueLength(watch, 'k')) === 1)
        await server.restart()
        await new Promise((resolve) => lock.signal.addEventListener('abort', resolve, { once: true }))
      }),
    ),
  )
  expect(error).toBeInstanceOf(LockLostError)
  expect(await waiting).toBeGreaterThan(fence)
})

it('keeps every lock and every place in the queue over a restart with AOF', async () => {
  const server = await ownRedis({ aof: true })
  const [holder, app] = [await lockApp({ url: server.url }), await lockApp({ url: server.url })]
  const watch = await redisObserver(server.url)
  const inside = new Gate()
  const gate = new Gate()
  const holding = holder.run({ name: 'holds' }, (scope) =>
    scope.lock('k', { ttlMs: 30_000 }, async () => {
      inside.open()
      await gate.passed
    }),
  )
  await inside.passed
  const waiting = app.run({ name: 'waits' }, (asking) => asking.lock('k', { waitMs: 10_000 }, async () => 'mine'))
  await until(async () => (await queueLength(watch, 'k')) === 1)
  await server.restart()
  await until(() => holder.redis.client.status === 'ready' && app.redis.client.status === 'ready')
  expect(
    await app.run({ name: 'asks' }, (scope) => failureOf(scope.lock('k', { waitMs: 20 }, async () => {}))),
  ).toBeInstanceOf(LockTimeoutError)
  gate.open()
  expect(await waiting).toBe('mine')
  await holding
})

it('declines a lock that was handed to it while it stood still', async () => {
  const redis = (await lockApp()).redis
  await redis.start?.({} as never)
  const watch = await redisObserver()
  const key = freshKey()
  let skippedMs = 0
  const clock = { now: () => ({ monotonicMs: performance.now() + skippedMs, wallMs: Date.now() + skippedMs }) }
  const store = new RedisLockStore(redis[redisAccess], clock)
  onTestFinished(() => store.close())
  const first = await store.acquire(request(key))
  if (first.tag !== 'granted') throw new Error('not granted')
  const second = store.acquire(request(key, { waitMs: 60_000 }))
  await until(async () => (await queueLength(watch, key)) === 1)
  skippedMs = 5_000 // by the time the message is read, the claim has long ended
  await store.release(first)
  const answer = await second
  if (answer.tag !== 'granted') throw new Error('not granted')
  // Had it been handed to it a moment ago, or taken anew: valid by a clock that knows of the pause.
  expect(clock.now().monotonicMs - answer.since.monotonicMs).toBeLessThan(900)
})

it('does not begin when the answer took longer than the lease lasts', async () => {
  const app = await lockApp()
  const access = app.redis[redisAccess]
  const { run } = access
  access.run = async (...args) => {
    const reply = await run.apply(access, args)
    block(130)
    return reply
  }
  let begun = false
  const work = async () => {
    begun = true
  }
  for (const lock of [
    app.run({ name: 'work' }, (scope) => scope.lock(freshKey(), { ttlMs: 100 }, work)),
    app.withLock(freshKey(), { ttlMs: 100 }, work),
  ]) {
    expect(await failureOf(lock)).toBeInstanceOf(LockLostError)
  }
  expect(begun).toBe(false)
})

it('is given back when the runtime closes in the middle, and nobody waits any longer', async () => {
  const [app, other] = [await lockApp(), await lockApp()]
  const watch = await redisObserver()
  const key = freshKey()
  const inside = new Gate()
  const left = failureOf(
    app.run({ name: 'stays' }, (scope) =>
      scope.lock(key, async () => {
        inside.open()
        await new Promise((_resolve, reject) => scope.signal.addEventListener('abort', () => reject(new Error('told'))))
      }),
    ),
  )
  await inside.passed
  const waiting = failureOf(
    other.run({ name: 'waits' }, (scope) => scope.lock(key, { waitMs: 60_000 }, async () => {})),
  )
  await until(async () => (await queueLength(watch, key)) === 1)
  await other.close({ timeoutMs: 300 })
  expect(await waiting).toMatchObject({ code: 'RSC_SCOPE_ABORTED', reason: 'shutdown' })
  expect(await queueLength(watch, key)).toBe(0)
  await app.close({ timeoutMs: 300 })
  expect(await left).toMatchObject({ message: 'told' })
  expect(await watch.hexists(`reqscope:lock:{${key}}`, 'xt')).toBe(0)
})

it('sends its scripts to a server that has forgotten them', async () => {
  const app = await lockApp()
  const watch = await redisObserver()
  const key = freshKey()
  await app.run({ name: 'work' }, (scope) => scope.lock(key, async () => {}))
  await watch.script('FLUSH')
  await app.run({ name: 'work' }, (scope) => scope.lock(key, async () => {}))
  expect(await new Script("return 'yes'").run(watch, [], [])).toBe('yes')
  expect(await testRedis()).toMatch(/^redis/)
})

it('hears of a lock that was handed over in a reply that was lost', async () => {
  const app = await lockApp()
  const watch = await redisObserver()
  const key = freshKey()
  let waiting: Promise<string> | undefined
  await app.run({ name: 'holds' }, (scope) =>
    scope.lock(key, { ttlMs: 60_000 }, async () => {
      waiting = app.run({ name: 'waits' }, (asking) => asking.lock(key, { waitMs: 20_000 }, async () => 'mine'))
      await until(async () => (await queueLength(watch, key)) === 1)
      // The release arrives, and the connection is gone before its reply is read.
      const { client } = app.redis
      const { evalsha } = client
      client.evalsha = ((...args: Parameters<typeof evalsha>) => {
        client.evalsha = evalsha
        const replied = evalsha.apply(client, args)
        return replied.then(() => Promise.reject(new Error('Connection is closed.')))
      }) as typeof evalsha
    }),
  )
  expect(await waiting).toBe('mine')
})

it('keeps its state for a day after the last holder, also where locks follow each other within the hour', async () => {
  const app = await lockApp()
  const watch = await redisObserver()
  const key = freshKey()
  const state = `reqscope:lock:{${key}}`
  await app.run({ name: 'first' }, (scope) => scope.lock(key, async () => {}))
  await until(async () => (await watch.hexists(state, 'xt')) === 0)
  // As if it had been made to last long ago, and taken a moment before the hour.
  const hourUs = 3_600_000_000
  await watch.hset(state, 'f', Math.floor((Date.now() * 1_000) / hourUs) * hourUs - 1)
  await watch.pexpire(state, 3_600_000)
  await app.run({ name: 'second' }, (scope) =>
    scope.lock(key, async () => expect(await watch.pttl(state)).toBeGreaterThan(86_000_000)),
  )
})

it('is no queue of another lock, whatever it is called', async () => {
  const app = await lockApp()
  const key = `cart:{${freshKey()}}`
  await app.run({ name: 'work' }, (scope) =>
    scope.lock(key, async () => {
      for (const part of [':s', ':q', ':w']) await scope.lock(`${key}${part}`, { waitMs: 0 }, async () => {})
      const error = await failureOf(
        app.run({ name: 'asks' }, (asking) => asking.lock(key, { waitMs: 20 }, async () => {})),
      )
      expect((error as { code?: string }).code).toBe('RSC_LOCK_TIMEOUT')
    }),
  )
})
