import { describe, expect, it } from 'vitest'
import { InvalidOptionError, LockLostError, LockTimeoutError, type Scope } from '../../src/index.ts'
import { block, failureOf, freshKey, Gate, lockApp, queueLength, redisObserver, until } from './fixture.ts'

const inScope = <Result>(
  app: Awaited<ReturnType<typeof lockApp>>,
  fn: (scope: Scope) => Promise<Result>,
  name = 'work',
) => app.run({ name }, fn)

describe('a lock', () => {
  it('gives the result of its function, and is free afterwards', async () => {
    const app = await lockApp()
    const key = freshKey()
    await inScope(app, async (scope) => {
      expect(await scope.lock(key, async (lock) => [lock.key, lock.keys])).toEqual([key, [key]])
      expect(await scope.lock(key, { waitMs: 0 }, async () => 'again')).toBe('again')
    })
  })

  it('lets one in at a time, among several processes', async () => {
    const apps = await Promise.all([lockApp(), lockApp(), lockApp()])
    const key = freshKey()
    let inside = 0
    let most = 0
    let count = 0
    await Promise.all(
      apps.flatMap((app) =>
        Array.from({ length: 20 }, () =>
          inScope(app, (scope) =>
            scope.lock(key, async () => {
              most = Math.max(most, ++inside)
              const read = count
              await new Promise((resolve) => setImmediate(resolve))
              count = read + 1
              inside--
            }),
          ),
        ),
      ),
    )
    expect({ most, count }).toEqual({ most: 1, count: 60 })
  })

  it('is given back when its function throws, whose error is the one that is told', async () => {
    const app = await lockApp()
    const key = freshKey()
    const mine = new Error('mine')
    await inScope(app, async (scope) => {
      expect(await failureOf(scope.lock(key, () => Promise.reject(mine)))).toBe(mine)
      await scope.lock(key, { waitMs: 0 }, async () => {})
    })
  })

  it('tries once with waitMs 0, and says who holds it', async () => {
    const [app, other] = await Promise.all([lockApp(), lockApp()])
    const key = freshKey()
    await inScope(
      app,
      async (holder) => {
        await holder.lock(key, async () => {
          const error = await failureOf(inScope(other, (scope) => scope.lock(key, { waitMs: 0 }, async () => {})))
          expect(error).toBeInstanceOf(LockTimeoutError)
          expect(error).toMatchObject({
            statusCode: 409,
            keys: [key],
            holder: { process: expect.stringContaining(`:${process.pid}`), name: 'task hold it', scopeId: holder.id },
          })
          expect((error as LockTimeoutError).holder?.heldMs).toBeGreaterThanOrEqual(0)
          expect((error as Error).message).toContain('task hold it')
        })
      },
      'hold it',
    )
  })

  it('waits no longer than waitMs, and leaves the queue', async () => {
    const [app, other] = await Promise.all([lockApp(), lockApp()])
    const watch = await redisObserver()
    const key = freshKey()
    await inScope(app, (holder) =>
      holder.lock(key, async () => {
        const error = await failureOf(inScope(other, (scope) => scope.lock(key, { waitMs: 60 }, async () => {})))
        expect(error).toBeInstanceOf(LockTimeoutError)
        expect((error as LockTimeoutError).waitedMs).toBeGreaterThanOrEqual(55)
        expect((error as LockTimeoutError).holder?.scopeId).toBe(holder.id)
        expect(await queueLength(watch, key)).toBe(0)
      }),
    )
  })

  it('hands over in the order of asking, among several processes', async () => {
    const [holder, ...apps] = await Promise.all([lockApp(), lockApp(), lockApp(), lockApp()])
    const watch = await redisObserver()
    const key = freshKey()
    const order: number[] = []
    const waiting: Promise<void>[] = []
    await inScope(holder, (scope) =>
      scope.lock(key, async () => {
        for (let turn = 0; turn < 9; turn++) {
          const app = apps[turn % 3] as typeof holder
          waiting.push(inScope(app, (asking) => asking.lock(key, async () => void order.push(turn))))
          await until(async () => (await queueLength(watch, key)) === turn + 1)
        }
      }),
    )
    await Promise.all(waiting)
    expect(order).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8])
    for (const app of apps) expect(app.redis.subscribers).toHaveLength(1)
    expect(holder.redis.subscribers).toHaveLength(0)
  })

  it('wakes whoever waits without asking again: two commands for each turn', async () => {
    const [app, other] = await Promise.all([lockApp(), lockApp()])
    const watch = await redisObserver()
    const key = freshKey()
    const gate = new Gate()
    const holding = inScope(app, (scope) => scope.lock(key, () => gate.passed))
    await until(async () => (await watch.hexists(`reqscope:lock:{${key}}`, 'xt')) === 1)
    const waiting = inScope(other, (scope) => scope.lock(key, async () => 'mine'))
    await until(async () => (await queueLength(watch, key)) === 1)
    const sent: string[] = []
    for (const { client } of [app.redis, other.redis]) {
      const { evalsha } = client
      client.evalsha = ((...args: Parameters<typeof evalsha>) => {
        sent.push(String(args[0]))
        return evalsha.apply(client, args)
      }) as typeof evalsha
    }
    gate.open()
    expect(await waiting).toBe('mine')
    await holding
    expect(sent).toHaveLength(2) // both of them releases
  })

  it('ends its waiting when the scope is cancelled', async () => {
    const [app, other] = await Promise.all([lockApp(), lockApp()])
    const watch = await redisObserver()
    const key = freshKey()
    const controller = new AbortController()
    await inScope(app, (holder) =>
      holder.lock(key, async () => {
        const waiting = other.run({ name: 'waits', signal: controller.signal }, (scope) =>
          scope.lock(key, async () => {}),
        )
        await until(async () => (await queueLength(watch, key)) === 1)
        controller.abort()
        expect(await failureOf(waiting)).toMatchObject({ code: 'RSC_SCOPE_ABORTED' })
        await until(async () => (await queueLength(watch, key)) === 0)
      }),
    )
  })

  it('ends its waiting when the given signal fires, with its reason', async () => {
    const [app, other] = await Promise.all([lockApp(), lockApp()])
    const key = freshKey()
    await inScope(app, (holder) =>
      holder.lock(key, async () => {
        const reason = new Error('enough')
        const signal = AbortSignal.abort(reason)
        expect(await failureOf(inScope(other, (scope) => scope.lock(key, { signal }, async () => {})))).toBe(reason)
      }),
    )
  })

  it('grows its fence with every holder', async () => {
    const [app, other] = await Promise.all([lockApp(), lockApp()])
    const key = freshKey()
    const fences: number[] = []
    for (let turn = 0; turn < 6; turn++) {
      const fence = await inScope(turn % 2 ? app : other, (scope) => scope.lock(key, async (lock) => lock.fence))
      fences.push(fence)
    }
    expect(fences).toEqual([...new Set(fences)].sort((a, b) => a - b))
    expect(fences[0]).toBeGreaterThan(Date.now() * 1000 - 60_000_000)
  })

  it.each([
    ['ttlMs', { ttlMs: 99 }],
    ['ttlMs', { ttlMs: '1000' }],
    ['waitMs', { waitMs: -1 }],
    ['mode', { mode: 'read' }],
    ['limit', { limit: 0 }],
    ['mode', { limit: 2, mode: 'shared' }],
    ['signal', { signal: {} }],
    ['wait', { wait: 3 }],
  ])('refuses a wrong %s, by name', async (name, options) => {
    const app = await lockApp()
    const error = await failureOf(inScope(app, (scope) => scope.lock('k', options as object, async () => {})))
    expect(error).toBeInstanceOf(InvalidOptionError)
    expect(error).toMatchObject({ option: `lock.${name}` })
  })
})

describe('a lease', () => {
  it('renews itself for as long as its function runs', async () => {
    const [app, other] = await Promise.all([lockApp(), lockApp()])
    const key = freshKey()
    await inScope(app, (scope) =>
      scope.lock(key, { ttlMs: 150 }, async (lock) => {
        const first = lock.expiresAt
        await until(() => lock.expiresAt > first + 300)
        expect(lock.signal.aborted).toBe(false)
        expect(await inScope(other, (asking) => asking.tryLock(key))).toBeUndefined()
      }),
    )
  })

  it('refuses the next statement after the event loop was blocked past its deadline, and fires its signal a turn later', async () => {
    const app = await lockApp()
    const key = freshKey()
    const error = await failureOf(
      inScope(app, (scope) =>
        scope.lock(key, { ttlMs: 100 }, async (lock) => {
          const { signal } = lock
          block(130)

          expect(await failureOf(lock.extend(1_000))).toBeInstanceOf(LockLostError)
          await new Promise((resolve) => setImmediate(resolve))
          expect(signal.aborted).toBe(true)
          expect(signal.reason).toMatchObject({ code: 'RSC_LOCK_LOST', reason: 'expired', keys: [key] })
        }),
      ),
    )
    expect(error).toBeInstanceOf(LockLostError)
  })

  it('ends by itself without autoExtend', async () => {
    const [app, other] = await Promise.all([lockApp(), lockApp()])
    const key = freshKey()
    await failureOf(
      inScope(app, (scope) =>
        scope.lock(key, { ttlMs: 120, autoExtend: false }, async (lock) => {
          const lost = new Promise((resolve) => lock.signal.addEventListener('abort', resolve, { once: true }))
          const next = inScope(other, (asking) => asking.lock(key, async (theirs) => theirs.fence))
          await lost
          expect(await next).toBeGreaterThan(lock.fence)
        }),
      ),
    )
  })

  it('is held no longer than maxHoldMs', async () => {
    const app = await lockApp()
    await failureOf(
      inScope(app, (scope) =>
        scope.lock(freshKey(), { ttlMs: 100, maxHoldMs: 250 }, async (lock) => {
          await new Promise((resolve) => lock.signal.addEventListener('abort', resolve, { once: true }))
          expect(lock.signal.reason).toMatchObject({ reason: 'held-too-long' })
        }),
      ),
    )
  })

  it('is extended by hand', async () => {
    const app = await lockApp()
    await inScope(app, (scope) =>
      scope.lock(freshKey(), { ttlMs: 100, autoExtend: false }, async (lock) => {
        await lock.extend(10_000)
        expect(lock.expiresAt).toBeGreaterThan(Date.now() + 9_000)
        block(150)
        expect(lock.signal.aborted).toBe(false)
      }),
    )
  })

  it('is known to be lost within one renewal when Redis has forgotten it', async () => {
    const app = await lockApp()
    const watch = await redisObserver()
    const key = freshKey()
    const error = await failureOf(
      inScope(app, (scope) =>
        scope.lock(key, { ttlMs: 300 }, async (lock) => {
          await watch.del(`reqscope:lock:{${key}}`)
          await new Promise((resolve) => lock.signal.addEventListener('abort', resolve, { once: true }))
          expect(lock.signal.reason).toMatchObject({ reason: 'taken' })
          return 'done all the same'
        }),
      ),
    )
    expect(error).toMatchObject({ code: 'RSC_LOCK_LOST', reason: 'taken' })
    expect(app.logs).toContainEqual(expect.objectContaining({ level: 'warn', message: 'a lock was lost' }))
  })
})
