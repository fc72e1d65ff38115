import { describe, expect, it } from 'vitest'
import type { Trouble } from '../src/smoke/traffic.ts'
import { judge } from '../src/smoke/verdict.ts'

const AT_ONCE = 5
const fault = { target: 'postgres', pid: 1, state: 'active', startedAt: 10_000, endedAt: 10_002 } as const
const redisFault = { target: 'redis', connections: 9, startedAt: 10_000, endedAt: 10_002 } as const
const lost: Trouble = {
  kind: 'server error',
  route: 'POST /orders',
  status: 503,
  contentType: 'application/problem+json; charset=utf-8',
  code: 'RSC_CONNECTION_LOST',
  what: '{}',
  startedAt: 9_990,
  endedAt: 10_005,
}
const isExpected = (trouble: Partial<Trouble>) =>
  judge([{ ...lost, ...trouble }], [fault], AT_ONCE).expected.length === 1

describe('the verdict of the smoke test', () => {
  it('expects the typed answer to a fault, at the time of the fault', () => {
    expect(isExpected({})).toBe(true)
    expect(isExpected({ startedAt: 10_500, endedAt: 10_900 })).toBe(true)
  })

  it('expects it neither before a fault nor long after', () => {
    expect(isExpected({ startedAt: 9_000, endedAt: 9_999 })).toBe(false)
    expect(isExpected({ startedAt: 11_000, endedAt: 11_003 })).toBe(false)
    expect(judge([lost], [], AT_ONCE).unexpected).toHaveLength(1)
  })

  it('expects no other error, whenever it comes', () => {
    expect(isExpected({ status: 500 })).toBe(false)
    expect(isExpected({ code: 'RSC_POOL_EXHAUSTED' })).toBe(false)
    expect(isExpected({ contentType: 'application/json; charset=utf-8' })).toBe(false)
    expect(isExpected({ kind: 'no answer' })).toBe(false)
    expect(isExpected({ kind: 'wrong answer' })).toBe(false)
  })

  it('expects two answers to a backend’s end, and no more', () => {
    expect(judge([lost, lost, lost, lost], [fault], AT_ONCE)).toMatchObject({
      expected: [lost, lost],
      unexpected: [lost, lost],
    })
    expect(judge([lost, lost, lost], [fault, { ...fault, pid: 2 }], AT_ONCE).unexpected).toEqual([])
  })

  it('expects as many answers to the loss of Redis as there are requests at once', () => {
    const verdict = judge(new Array(AT_ONCE + 1).fill(lost), [redisFault], AT_ONCE)
    expect([verdict.expected.length, verdict.unexpected.length]).toEqual([AT_ONCE, 1])
  })

  it('expects GET /health to say that Redis is down only when it was cut off', () => {
    const what = '{"status":"down","resources":{"redis":{"status":"down"}}}'
    const down: Trouble = {
      ...lost,
      route: 'GET /health',
      contentType: 'application/json',
      code: undefined,
      what,
    } as never
    expect(judge([down], [redisFault], AT_ONCE).unexpected).toEqual([])
    expect(judge([down], [fault], AT_ONCE).unexpected).toEqual([down])
    const up = { ...down, what: '{"status":"down","resources":{"redis":{"status":"up"}}}' }
    expect(judge([up], [redisFault], AT_ONCE).unexpected).toEqual([up])
  })

  it('expects only a stream to be cut off by a fault', () => {
    expect(isExpected({ kind: 'cut off' })).toBe(false)
    expect(isExpected({ kind: 'cut off', route: 'GET /reports/orders.csv' })).toBe(true)
  })
})
