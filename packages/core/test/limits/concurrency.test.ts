import { describe, expect, it, vi } from 'vitest'
import { AdaptiveLimit, Baseline } from '../../src/limits/adaptive.ts'
import { ConcurrencyLimit, type Priority, type Turn } from '../../src/limits/concurrency.ts'
import { failureOf } from '../gate.ts'

const limitOf = (max: number, maxQueued = 0, maxWaitMs = 1_000) =>
  new ConcurrencyLimit({ max, maxQueued, maxWaitMs }, 'concurrency')
const enter = (limit: ConcurrencyLimit, priority: Priority = 'normal', withinMs = Number.POSITIVE_INFINITY) =>
  limit.enter('GET /', priority, withinMs)

describe('a concurrency limit', () => {
  it('lets as many in as it says, and refuses the next with a Retry-After that follows from how long they take', () => {
    const limit = limitOf(2)
    expect([enter(limit), enter(limit)]).toEqual([undefined, undefined])
    limit.leave(400)
    enter(limit)
    expect(() => enter(limit)).toThrow(
      expect.objectContaining({ code: 'RSC_OVERLOADED', reason: 'concurrency', statusCode: 503, retryAfterMs: 200 }),
    )
  })

  it('serves those who wait in the order of their priority, then of their arrival', async () => {
    const limit = limitOf(1, 10)
    enter(limit)
    const served: string[] = []
    const wait = (name: string, priority: Priority) =>
      (enter(limit, priority) as Turn).granted.then(() => served.push(name))
    const all = [
      wait('report', 'background'),
      wait('page 1', 'normal'),
      wait('checkout', 'critical'),
      wait('page 2', 'normal'),
    ]
    for (const _ of all) limit.leave(1)
    await Promise.all(all)
    expect(served).toEqual(['checkout', 'page 1', 'page 2', 'report'])
    expect(limit.active).toBe(1)
    limit.leave(1)
    expect(limit).toMatchObject({ active: 0, queued: 0 })
  })

  it('lets who matters least go when somebody who matters more finds the queue full', async () => {
    const limit = limitOf(1, 2)
    enter(limit)
    const [older, newer] = [enter(limit, 'background') as Turn, enter(limit, 'background') as Turn]
    const checkout = enter(limit, 'critical') as Turn
    expect(await failureOf(newer.granted)).toMatchObject({ reason: 'concurrency' })
    expect(() => enter(limit, 'background')).toThrow(/was refused/)
    limit.leave(1)
    limit.leave(1)
    await Promise.all([checkout.granted, older.granted])
    expect(limit.queued).toBe(0)
  })

  it('lets nobody wait for longer than it says, or than would help', async () => {
    vi.useFakeTimers()
    try {
      const limit = limitOf(1, 10, 300)
      enter(limit)
      const refused = failureOf((enter(limit) as Turn).granted)
      const soon = failureOf((enter(limit, 'normal', 100) as Turn).granted)
      await vi.advanceTimersByTimeAsync(100)
      expect(await soon).toMatchObject({ reason: 'concurrency' })
      expect(limit.queued).toBe(1)
      await vi.advanceTimersByTimeAsync(200)
      expect(await refused).toMatchObject({ reason: 'concurrency' })
      limit.leave(500)
      enter(limit)
      // It is known by now that one takes half a second.
      expect(() => enter(limit)).toThrow(/was refused/)
      expect(limit).toMatchObject({ active: 1, queued: 0 })
    } finally {
      vi.useRealTimers()
    }
  })

  it('does not give a place to who has gone', async () => {
    const limit = limitOf(1, 1)
    enter(limit)
    const turn = enter(limit) as Turn
    turn.leave(new Error('gone'))
    expect(await failureOf(turn.granted)).toMatchObject({ message: 'gone' })
    limit.leave(1)
    expect(limit).toMatchObject({ active: 0, queued: 0 })
  })

  it.each([
    [{}, 'concurrency.max'],
    [{ max: '5' }, 'concurrency.max'],
    [{ max: 5, maxQueued: -1 }, 'concurrency.maxQueued'],
    [{ max: 5, maxWaitMs: 0 }, 'concurrency.maxWaitMs'],
    [{ max: 5, queue: 2 }, 'concurrency.queue'],
  ])('refuses %o', (options, option) => {
    expect(() => new ConcurrencyLimit(options as never, 'concurrency')).toThrow(expect.objectContaining({ option }))
  })
})

describe('the adaptive limit', () => {
  /** A server that does `capacity` at once in 50 ms each, and more of them slower; always asked for more than it lets in. */
  const settleOn = (capacity: number, updates: number, limit: AdaptiveLimit, baseline: Baseline, from = 0) => {
    let now = from
    for (let update = 0; update < updates; update++) {
      let active = 0
      while (limit.enter('critical')) active++
      const tookMs = 50 * Math.max(1, active / capacity)
      now += Math.max(100, tookMs)
      for (let each = 0; each < active; each++) limit.leave(baseline.ratioOf(tookMs, now), now)
    }
    return now
  }

  it('settles where answers begin to take longer, and finds the way back', () => {
    const limit = new AdaptiveLimit({ initial: 10 }, 'adaptive')
    const baseline = new Baseline()
    const later = settleOn(40, 300, limit, baseline)
    expect(limit.limit).toBeGreaterThan(40)
    expect(limit.limit).toBeLessThan(40 * 3)
    const slower = settleOn(10, 100, limit, baseline, later)
    expect(limit.limit).toBeLessThan(10 * 3.5)
    settleOn(40, 300, limit, baseline, slower)
    expect(limit.limit).toBeGreaterThan(40)
  })

  it('keeps places for who matters more', () => {
    const limit = new AdaptiveLimit({ initial: 20 }, 'adaptive')
    const admitted = (priority: Priority) => {
      let count = 0
      while (limit.enter(priority)) count++
      return count
    }
    expect([admitted('background'), admitted('normal'), admitted('critical')]).toEqual([10, 8, 2])
    expect(limit.enter('critical')).toBe(false)
  })

  it('does not take the slow route among fast ones for an overload', () => {
    const limit = new AdaptiveLimit({ initial: 20 }, 'adaptive')
    const [fast, slow] = [new Baseline(), new Baseline()]
    for (let now = 0; now < 60_000; now += 20) {
      while (limit.enter('normal')) {}
      const active = limit.active
      for (let each = 0; each < active; each++) {
        limit.leave(each % 2 === 0 ? fast.ratioOf(8, now) : slow.ratioOf(900, now), now)
      }
    }
    expect(limit.limit).toBe(1_000)
  })

  it('learns nothing from quiet times', () => {
    const limit = new AdaptiveLimit({ initial: 50 }, 'adaptive')
    const baseline = new Baseline()
    for (let now = 0; now < 60_000; now += 10) {
      limit.enter('normal')
      limit.leave(baseline.ratioOf(20, now), now)
    }
    expect(limit.limit).toBe(50)
  })

  it.each([
    [{ min: 0 }, 'adaptive.min'],
    [{ min: 10, max: 5 }, 'adaptive.max'],
    [{ initial: 2 }, 'adaptive.initial'],
    [{ tolerance: '2' }, 'adaptive.tolerance'],
    [{ limit: 2 }, 'adaptive.limit'],
  ])('refuses %o', (options, option) => {
    expect(() => new AdaptiveLimit(options as never, 'adaptive')).toThrow(expect.objectContaining({ option }))
  })
})
