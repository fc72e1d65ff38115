import { describe, expect, it } from 'vitest'
import type { Scope } from '../../src/index.ts'
import { lockName } from '../../src/locks/lock-name.ts'
import { freshKey, Gate, type LockApp, lockApp, queueLength, redisObserver, until } from './fixture.ts'

const hold = (app: LockApp, fn: (scope: Scope) => Promise<unknown>) => app.run({ name: 'work' }, fn)

describe('a shared lock', () => {
  it('lets readers in together, and no writer beside them', async () => {
    const [app, other] = [await lockApp(), await lockApp()]
    const key = freshKey()
    await hold(app, (scope) =>
      scope.lock(key, { mode: 'shared' }, async (lock) => {
        expect(lock.fence).toBeUndefined()
        await hold(other, async (reader) => {
          await reader.lock(key, { mode: 'shared', waitMs: 0 }, async () => {})
          expect(await reader.tryLock(key)).toBeUndefined()
        })
      }),
    )
    await hold(other, (writer) => writer.lock(key, { waitMs: 500 }, async () => {}))
  })

  it('does not overtake a writer who waits, and lets all readers behind it in together', async () => {
    const [app, other] = [await lockApp(), await lockApp()]
    const watch = await redisObserver()
    const key = freshKey()
    const order: string[] = []
    const together = new Gate()
    let readers = 0
    const waiting: Promise<unknown>[] = []
    await hold(app, (scope) =>
      scope.lock(key, { mode: 'shared' }, async () => {
        waiting.push(hold(other, (writer) => writer.lock(key, async () => void order.push('writer'))))
        await until(async () => (await queueLength(watch, key)) === 1)
        for (const reader of [1, 2]) {
          waiting.push(
            hold(other, (reading) =>
              reading.lock(key, { mode: 'shared' }, async () => {
                order.push('reader')
                if (++readers === 2) together.open()
                await together.passed
              }),
            ),
          )
          await until(async () => (await queueLength(watch, key)) === reader + 1)
        }
      }),
    )
    await Promise.all(waiting)
    expect(order).toEqual(['writer', 'reader', 'reader'])
  })
})

describe('a semaphore', () => {
  it('lets so many in, and hands a free place to the next who waits', async () => {
    const apps = [await lockApp(), await lockApp()]
    const key = freshKey()
    let inside = 0
    let most = 0
    await Promise.all(
      Array.from({ length: 24 }, (_, index) =>
        hold(apps[index % 2] as LockApp, (scope) =>
          scope.lock(key, { limit: 3 }, async () => {
            most = Math.max(most, ++inside)
            await new Promise((resolve) => setTimeout(resolve, 1))
            inside--
          }),
        ),
      ),
    )
    expect(most).toBe(3)
  })
})

describe('several keys', () => {
  it('are had all or not at all, in one step', async () => {
    const [app, other] = [await lockApp(), await lockApp()]
    const watch = await redisObserver()
    const [a, b, c] = [freshKey(), freshKey(), freshKey()]
    await hold(app, (scope) =>
      scope.lock(b, async () => {
        await hold(other, async (asking) => {
          expect(await asking.tryLock([a, b, c])).toBeUndefined()
          expect(await watch.hexists(lockName(a).name, 'xt')).toBe(0)
          await asking.lock([c, a, c], { waitMs: 0 }, async (lock) => expect(lock.keys).toEqual([a, c].sort()))
        })
      }),
    )
  })

  it('are waited for without a deadlock, whatever order they are named in', async () => {
    const apps = [await lockApp(), await lockApp(), await lockApp()]
    const keys = [freshKey(), freshKey(), freshKey()]
    const inside = new Map<string, number>()
    let overlaps = 0
    const fences = new Map<string, number[]>()
    await Promise.all(
      Array.from({ length: 30 }, (_, index) => {
        const wanted = [keys[index % 3], keys[(index * 2 + 1) % 3]] as string[]
        return hold(apps[index % 3] as LockApp, (scope) =>
          scope.lock(index % 2 ? wanted : wanted.toReversed(), { waitMs: 10_000 }, async (lock) => {
            for (const key of lock.keys) {
              if ((inside.get(key) ?? 0) > 0) overlaps++
              inside.set(key, (inside.get(key) ?? 0) + 1)
              fences.set(key, [...(fences.get(key) ?? []), lock.fence])
            }
            await new Promise((resolve) => setImmediate(resolve))
            for (const key of lock.keys) inside.set(key, (inside.get(key) ?? 0) - 1)
          }),
        )
      }),
    )
    expect(overlaps).toBe(0)
    for (const given of fences.values()) expect(given).toEqual([...new Set(given)].sort((x, y) => x - y))
  })
})

describe('the names of a lock', () => {
  it('share a slot, by the hash tag of the key or one of our making, and never meet those of another key', () => {
    const tagOf = (name: string) => /\{([^}]+)\}/.exec(name.slice(name.indexOf('{')))?.[1]
    const keys = [
      'a',
      '{a}',
      'a{b}c',
      '}{',
      '{}',
      '{}a',
      'a}b',
      '=a',
      '{a',
      'a}',
      '#{x}:y',
      'x{y}{z}',
      '{{a}}',
      '{}{a}',
    ]
    const names = keys.map((key) => lockName(key))
    expect(new Set(names.map(({ name }) => name)).size).toBe(keys.length)
    for (const { name, tag } of names) expect(tagOf(name)).toBe(tag)
    expect(lockName('cart:{42}').tag).toBe('42')
  })
})
