import { testRedis } from '@reqscope/services/testing'
import { describe, expect, it, onTestFinished } from 'vitest'
import { createScopes, LockLostError, LockTimeoutError, type Scope } from '../../src/index.ts'
import { postgres } from '../../src/postgres/index.ts'
import { memoryLogger } from '../memory-logger.ts'
import { accountsDatabase, schema } from '../postgres/fixture.ts'
import { block, failureOf, freshKey, Gate, testRedisResource } from './fixture.ts'
import { MemoryStore } from './memory-store.ts'

const database = await accountsDatabase()

type Run = <Result>(fn: (scope: Scope) => Promise<Result>, options?: { signal?: AbortSignal }) => Promise<Result>

interface App {
  readonly run: Run
  readonly logs: readonly { readonly message?: string; readonly msg?: string }[]
}

const stores = {
  redis: () => async () => ({ resources: { redis: testRedisResource({ url: await testRedis() }) } }),
  postgres: () => async () => ({ resources: { db: postgres({ url: database.url, schema, max: 6 }) } }),
  'a store of the user’s': () => {
    const store = new MemoryStore()
    return async () => ({ resources: {}, locks: { store } })
  },
} as const

/** Tells when so many have been asked, and gives them time to arrive: a store need not say who waits. */
const settled = () => new Promise((resolve) => setTimeout(resolve, 30))

describe.each(Object.entries(stores))('every store keeps its promises: %s', (_name, options) => {
  async function apps(count: number): Promise<App[]> {
    const make = options()
    return Promise.all(
      Array.from({ length: count }, async () => {
        const { logger, logs } = memoryLogger()
        const scopes = createScopes({ ...(await make()), logger } as never)
        await scopes.start()
        onTestFinished(() => scopes.close({ timeoutMs: 1_000 }))
        return { logs, run: (fn, more) => scopes.run({ name: 'work', ...more }, fn as never) } as App
      }),
    )
  }

  it('lets one in at a time, among several runtimes, with fences that grow', async () => {
    const all = await apps(3)
    const key = freshKey()
    const fences: number[] = []
    let inside = 0
    let most = 0
    await Promise.all(
      Array.from({ length: 30 }, (_, index) =>
        (all[index % 3] as App).run((scope) =>
          scope.lock(key, { waitMs: 20_000 }, async (lock) => {
            most = Math.max(most, ++inside)
            fences.push(lock.fence)
            await new Promise((resolve) => setImmediate(resolve))
            inside--
          }),
        ),
      ),
    )
    expect(most).toBe(1)
    expect(fences).toHaveLength(30)
    expect(fences).toEqual([...new Set(fences)].sort((a, b) => a - b))
  })

  it('serves first whoever asked first', async () => {
    const [app] = (await apps(1)) as [App]
    const key = freshKey()
    const order: number[] = []
    const waiting: Promise<unknown>[] = []
    await app.run((scope) =>
      scope.lock(key, async () => {
        for (let turn = 0; turn < 5; turn++) {
          waiting.push(app.run((asking) => asking.lock(key, async () => void order.push(turn))))
          await settled()
        }
      }),
    )
    await Promise.all(waiting)
    expect(order).toEqual([0, 1, 2, 3, 4])
  })

  it('tries once, or waits for so long and no longer', async () => {
    const [app, other] = (await apps(2)) as [App, App]
    const key = freshKey()
    await app.run((scope) =>
      scope.lock(key, async () => {
        await other.run(async (asking) => {
          expect(await asking.tryLock(key)).toBeUndefined()
          const error = await failureOf(asking.lock(key, { waitMs: 60 }, async () => {}))
          expect(error).toBeInstanceOf(LockTimeoutError)
          expect((error as LockTimeoutError).waitedMs).toBeGreaterThanOrEqual(55)
          expect((error as LockTimeoutError).waitedMs).toBeLessThan(1_000)
        })
      }),
    )
    await other.run(async (asking) => {
      await using lock = await asking.acquireLock(key)
      expect(lock.key).toBe(key)
    })
  })

  it('gives back what a function that throws has held, and its error is the one that is told', async () => {
    const [app, other] = (await apps(2)) as [App, App]
    const key = freshKey()
    const mine = new Error('mine')
    expect(await failureOf(app.run((scope) => scope.lock(key, () => Promise.reject(mine))))).toBe(mine)
    expect(await other.run((scope) => scope.lock(key, async () => 'free'))).toBe('free')
  })

  it('ends the waiting with the given signal, with its reason, and keeps nothing for whoever went', async () => {
    const [app, other] = (await apps(2)) as [App, App]
    const key = freshKey()
    const controller = new AbortController()
    const reason = new Error('no longer')
    const held = new Gate()
    const holding = app.run((scope) => scope.lock(key, () => held.passed))
    await settled()
    const waiting = failureOf(
      other.run((asking) => asking.lock(key, { waitMs: 20_000, signal: controller.signal }, async () => {})),
    )
    await settled()
    controller.abort(reason)
    expect(await waiting).toBe(reason)
    held.open()
    await holding
    expect(await app.run((scope) => scope.lock(key, { waitMs: 2_000 }, async () => 'free'))).toBe('free')
  })

  it('lets the code under a lock enter it again, and a parallel branch wait', async () => {
    const [app] = (await apps(1)) as [App]
    const key = freshKey()
    await app.run(async (scope) => {
      const inside = new Gate()
      const branch = inside.passed.then(() => failureOf(scope.lock(key, { waitMs: 20 }, async () => {})))
      await scope.lock(key, async (outer) => {
        await scope.lock(key, async (inner) => expect(inner.fence).toBe(outer.fence))
        inside.open()
        expect(await branch).toBeInstanceOf(LockTimeoutError)
      })
    })
  })

  it('tells a holder whose lease ended while the event loop was blocked', async () => {
    const [app] = (await apps(1)) as [App]
    const error = await failureOf(app.run((scope) => scope.lock(freshKey(), { ttlMs: 150 }, async () => block(200))))
    expect(error).toBeInstanceOf(LockLostError)
  })

  it('takes back what a scope still holds when it ends', async () => {
    const [app, other] = (await apps(2)) as [App, App]
    const key = freshKey()
    await app.run(async (scope) => void (await scope.acquireLock(key)))
    expect(await other.run((scope) => scope.lock(key, { waitMs: 2_000 }, async () => 'free'))).toBe('free')
  })
})
