import { describe, expect, it } from 'vitest'
import { InvalidOptionError, LockLostError, LockTimeoutError, ScopeEndedError } from '../../src/index.ts'
import { failureOf, freshKey, Gate, lockApp, redisObserver, until } from './fixture.ts'

describe('entering again', () => {
  it('succeeds at once inside the function of the lock, however deep, and releases at the end of the outermost', async () => {
    const app = await lockApp()
    const other = await lockApp()
    const key = freshKey()
    await app.run({ name: 'work' }, (scope) =>
      scope.lock(key, async (outer) => {
        await scope.lock(key, (inner) => {
          expect(inner.fence).toBe(outer.fence)
          return scope.lock([key], async () => {})
        })
        expect(await other.run({ name: 'asks' }, (asking) => asking.tryLock(key))).toBeUndefined()
      }),
    )
    await other.run({ name: 'asks' }, (asking) => asking.lock(key, { waitMs: 500 }, async () => {}))
  })

  it('makes a parallel branch of the scope wait, unless it is reentrant', async () => {
    const app = await lockApp()
    const key = freshKey()
    await app.run({ name: 'work' }, async (scope) => {
      const gate = new Gate()
      const inside = new Gate()
      const holding = scope.lock(key, () => {
        inside.open()
        return gate.passed
      })
      await inside.passed
      const error = await failureOf(scope.lock(key, { waitMs: 20 }, async () => {}))
      expect(error).toBeInstanceOf(LockTimeoutError)
      expect((error as Error).message).toContain('reentrant: true')
      expect(await scope.lock(key, { reentrant: true }, async () => 'in')).toBe('in')
      const waiting = scope.lock(key, async () => 'after')
      gate.open()
      expect(await waiting).toBe('after')
      await holding
    })
  })

  it('refuses to take more keys than it holds, or to become exclusive: both could wait for themselves', async () => {
    const app = await lockApp()
    const [a, b] = [freshKey(), freshKey()]
    await app.run({ name: 'work' }, async (scope) => {
      await scope.lock(a, async () => {
        expect(await failureOf(scope.lock([a, b], async () => {}))).toMatchObject({ option: 'lock.keys' })
      })
      await scope.lock(a, { mode: 'shared' }, async () => {
        expect(await failureOf(scope.lock(a, async () => {}))).toBeInstanceOf(InvalidOptionError)
      })
    })
  })
})

describe('a lock taken by hand', () => {
  it('is released once, by hand or at the end of its block', async () => {
    const app = await lockApp()
    const key = freshKey()
    await app.run({ name: 'work' }, async (scope) => {
      {
        await using lock = await scope.acquireLock(key)
        expect(lock.fence).toBeGreaterThan(0)
        expect(await scope.tryLock(key)).toBeUndefined()
      }
      const lock = await scope.tryLock(key)
      await Promise.all([lock?.release(), lock?.release()])
      await using _again = await scope.acquireLock(key, { waitMs: 0 })
    })
  })

  it('is released and reported when its scope ends', async () => {
    const app = await lockApp()
    const watch = await redisObserver()
    const key = freshKey()
    await app.run({ name: 'careless' }, async (scope) => {
      await scope.acquireLock(key)
    })
    expect(await watch.hexists(`reqscope:lock:{${key}}`, 'xt')).toBe(0)
    expect(app.logs).toContainEqual(
      expect.objectContaining({
        level: 'warn',
        message: 'a scope ended while it held a lock; it was released',
        facts: expect.objectContaining({ keys: [key] }),
      }),
    )
  })
})

describe('the end of a scope', () => {
  it('takes back the lock of a function that nobody awaited, and tells it', async () => {
    const app = await lockApp()
    const key = freshKey()
    const inside = new Gate()
    const gate = new Gate()
    let signal: AbortSignal | undefined
    let left: Promise<unknown> | undefined
    await app.run({ name: 'careless' }, async (scope) => {
      left = failureOf(
        scope.lock(key, (lock) => {
          signal = lock.signal
          inside.open()
          return gate.passed
        }),
      )
      await inside.passed
    })
    await until(() => signal?.aborted === true)
    expect(signal?.reason).toMatchObject({ reason: 'scope-ended' })
    await app.run({ name: 'next' }, (scope) => scope.lock(key, { waitMs: 0 }, async () => {}))
    gate.open()
    expect(await left).toBeInstanceOf(LockLostError)
  })

  it('refuses a lock afterwards', async () => {
    const app = await lockApp()
    const scope = await app.run({ name: 'over' }, async (ended) => ended)
    expect(await failureOf(scope.lock(freshKey(), async () => {}))).toBeInstanceOf(ScopeEndedError)
  })

  it('ends the waiting of what nobody awaited', async () => {
    const [app, other] = [await lockApp(), await lockApp()]
    const watch = await redisObserver()
    const key = freshKey()
    let late: Promise<unknown> | undefined
    await other.run({ name: 'holds' }, (holder) =>
      holder.lock(key, async () => {
        await app.run({ name: 'leaves' }, async (scope) => {
          late = failureOf(scope.lock(key, async () => 'in'))
          await until(async () => (await watch.zcard(`reqscope:lock:{${key}}:q`)) === 1)
        })
      }),
    )
    expect(await late).toBeInstanceOf(ScopeEndedError)
    await until(async () => (await watch.hexists(`reqscope:lock:{${key}}`, 'xt')) === 0)
  })
})

describe('withLock', () => {
  it('locks outside of every scope, and is the scope’s own lock inside of one', async () => {
    const app = await lockApp()
    const key = freshKey()
    await app.withLock(key, { ttlMs: 1_000 }, async (lock) => {
      expect(lock.fence).toBeGreaterThan(0)
      await app.run({ name: 'asks' }, async (scope) => {
        const error = await failureOf(scope.lock(key, { waitMs: 0 }, async () => {}))
        expect(error).toMatchObject({ holder: { name: 'withLock', scopeId: undefined } })
      })
    })
    await app.run({ name: 'work' }, (scope) => scope.lock(key, () => app.withLock(key, { waitMs: 0 }, async () => {})))
  })
})

it('says what to do where the runtime has nothing that could keep locks', async () => {
  const { createScopes } = await import('../../src/index.ts')
  const app = createScopes({ resources: {} })
  const error = await failureOf(app.withLock('k', async () => {}))
  expect(error).toMatchObject({ option: 'createScopes.locks.store' })
  await app.close()
})
