import { startRedisCluster } from '@reqscope/services'
import { afterAll, describe, expect, it } from 'vitest'
import { keySlot } from '../../src/redis/key-slot.ts'
import { failureOf, freshKey, Gate, type LockApp, lockApp } from './fixture.ts'

describe('locks in a Redis Cluster', async () => {
  const cluster = await startRedisCluster()
  afterAll(() => cluster.stop())
  const app = () => lockApp({ cluster: cluster.nodes })
  const masterOf = (key: string) => Math.floor((keySlot(key) * 3) / 16_384)
  /** A key of each master. */
  const keysOfAll = () =>
    [0, 1, 2].map((master) => {
      for (;;) {
        const key = freshKey()
        if (masterOf(key) === master) return key
      }
    }) as [string, string, string]
  const inScope = <Result>(on: LockApp, fn: Parameters<typeof on.run<Result>>[1]) => on.run({ name: 'work' }, fn)

  it('are handed over between processes, on whatever node they are', async () => {
    const apps = [await app(), await app()]
    for (const key of keysOfAll()) {
      const fences: number[] = []
      let inside = 0
      let most = 0
      await Promise.all(
        Array.from({ length: 20 }, (_, index) =>
          inScope(apps[index % 2] as LockApp, (scope) =>
            scope.lock(key, { waitMs: 10_000 }, async (lock) => {
              most = Math.max(most, ++inside)
              fences.push(lock.fence)
              await new Promise((resolve) => setImmediate(resolve))
              inside--
            }),
          ),
        ),
      )
      expect(most).toBe(1)
      expect(fences).toEqual([...new Set(fences)].sort((a, b) => a - b))
    }
  })

  it('of several slots are had all or not at all, without a deadlock', async () => {
    const [first, second] = [await app(), await app()]
    const keys = keysOfAll()
    const [, , last] = keys
    await inScope(first, (scope) =>
      scope.lock(last, async () => {
        await inScope(second, async (asking) => {
          expect(await asking.tryLock(keys)).toBeUndefined()
          await failureOf(asking.lock(keys, { waitMs: 30 }, async () => {}))
        })
      }),
    )
    // Those it had of them meanwhile are free again.
    await inScope(first, (scope) =>
      scope.lock(keys, { waitMs: 1_000 }, async (lock) => expect(lock.fence).toBeGreaterThan(0)),
    )
    const turns = Array.from({ length: 12 }, (_, turn) =>
      inScope(turn % 2 === 0 ? first : second, (scope) =>
        scope.lock(turn % 3 === 0 ? keys.toReversed() : keys, { waitMs: 10_000 }, async () => turn),
      ),
    )
    expect(await Promise.all(turns)).toHaveLength(12)
  })

  it('with a hash tag of the user’s are taken in one step', async () => {
    const on = await app()
    const tag = freshKey()
    const held = new Gate()
    const holding = inScope(on, (scope) => scope.lock([`a:{${tag}}`, `b:{${tag}}`], () => held.passed))
    const other = await app()
    await inScope(other, async (asking) => {
      for (let tries = 0; (await other.run({ name: 'asks' }, (each) => each.tryLock(`b:{${tag}}`))) !== undefined; ) {
        if (++tries > 100) throw new Error('never held')
      }
      expect(await asking.tryLock([`b:{${tag}}`, `c:{${tag}}`])).toBeUndefined()
    })
    held.open()
    await holding
  })

  it('go to the next when a holder is gone', async () => {
    const [gone, next] = [await app(), await app()]
    const key = freshKey()
    void gone
      .run({ name: 'holds' }, (scope) => scope.lock(key, { ttlMs: 400 }, () => new Promise(() => {})))
      .catch(() => {})
    await new Promise((resolve) => setTimeout(resolve, 50))
    await gone.close({ timeoutMs: 100 })
    expect(await inScope(next, (scope) => scope.lock(key, { waitMs: 5_000 }, async () => 'mine'))).toBe('mine')
  })
})
