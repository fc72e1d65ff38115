import { describe, expect, it } from 'vitest'
import { judge, type Pause } from './judge.ts'
import type { Record } from './record.ts'

const hold = (name: string, from: number, to: number, fence: number, validUntil = to + 100): Record[] => [
  { tag: 'asked', at: from - 1, hold: name, key: 'k' },
  { tag: 'granted', at: from, hold: name, key: 'k', fence, validUntil },
  { tag: 'done', at: to, hold: name, lost: false },
]
const wrote = (name: string, fence: number, version: number): Record => ({
  tag: 'wrote',
  hold: name,
  key: 'k',
  fence,
  version,
})

describe('a history that is sound', () => {
  it('is found to be so, also where a holder went on after its own clock had told it to stop', () => {
    const records = [...hold('a', 10, 500, 1, 100), ...hold('b', 101, 200, 2), wrote('a', 1, 1), wrote('b', 2, 2)]
    const verdict = judge([...records, { tag: 'stale', hold: 'a', key: 'k', fence: 1 }])
    expect(verdict.violations).toEqual([])
    expect(verdict).toMatchObject({ holds: 2, asks: 2, overlaps: 0, writes: 2, staleWritesRefused: 1 })
  })
})

describe('a history of locks that hang on connections', () => {
  const twoAtOnce = [...hold('a', 10, 300, 1), ...hold('b', 110, 200, 2)]

  it('excuses a holder that has not heard of its end yet, for so long after a connection was cut', () => {
    expect(judge(twoAtOnce, { at: [100], noticeMs: 250 }).violations).toEqual([])
    expect(judge(twoAtOnce, { at: [100], noticeMs: 150 }).violations).toHaveLength(1)
    expect(judge(twoAtOnce, { at: [120], noticeMs: 250 }).violations).toHaveLength(1)
    expect(judge(twoAtOnce, { at: [], noticeMs: 250 }).violations).toHaveLength(1)
  })

  it('excuses it for longer where its process was paused', () => {
    const paused = [...hold('p1.a', 10, 600, 1), ...hold('p2.b', 110, 700, 2)]
    const cuts = { at: [100], noticeMs: 100 }
    const violations = (...pauses: Pause[]) => judge(paused, { ...cuts, pauses }).violations
    expect(violations({ process: 'p1', from: 50, to: 550 })).toEqual([])
    expect(violations({ process: 'p1', from: 150, to: 900 })).toEqual([])
    expect(violations({ process: 'p2', from: 50, to: 550 })).toHaveLength(1)
    expect(violations({ process: 'p1', from: 50, to: 450 })).toHaveLength(1)
    expect(violations({ process: 'p1', from: 250, to: 900 })).toHaveLength(1)
  })

  it('ends a hold with its signal there, and nowhere else', () => {
    const told = [...hold('a', 10, 300, 1), ...hold('b', 110, 200, 2), { tag: 'told', at: 105, hold: 'a' } as const]
    expect(judge(told, { at: [], noticeMs: 0 }).violations).toEqual([])
    expect(judge(told).violations).toHaveLength(1)
  })
})

describe('a history that must fail', () => {
  it.each<[string, Record[], RegExp]>([
    ['two holders at once', [...hold('a', 10, 50, 1), ...hold('b', 49, 60, 2)], /b began 1\.00 ms before a had ended/],
    [
      'a holder inside a longer one',
      [...hold('a', 10, 90, 1), ...hold('b', 20, 30, 2), ...hold('c', 40, 50, 3)],
      /c began/,
    ],
    [
      'a holder that still counted on a renewed lease',
      [
        ...hold('a', 10, 500, 1, 100).slice(0, 2),
        { tag: 'valid', at: 90, hold: 'a', validUntil: 200 },
        { tag: 'done', at: 500, hold: 'a', lost: true },
        ...hold('b', 150, 160, 2),
      ],
      /b began 50\.00 ms/,
    ],
    ['a fence that shrank', [...hold('a', 10, 20, 2), ...hold('b', 30, 40, 1)], /fence 1 after a had 2/],
    ['a fence given twice', [...hold('a', 10, 20, 2), ...hold('b', 30, 40, 2)], /fence of another holder/],
    ['a stale write that succeeded', [wrote('b', 2, 1), wrote('a', 1, 2)], /a wrote to k with fence 1 after 2/],
    ['a lost write', [wrote('a', 1, 1), wrote('b', 2, 1)], /was lost/],
    ['an ask that never ended', [{ tag: 'asked', at: 1, hold: 'a', key: 'k' }], /never heard/],
    [
      'an error that is not ours',
      [
        { tag: 'asked', at: 1, hold: 'a', key: 'k' },
        { tag: 'refused', at: 2, hold: 'a', code: 'TypeError' },
      ],
      /ended with TypeError/,
    ],
    ['a grant nobody asked for', hold('a', 10, 20, 1).slice(1), /without having asked/],
  ])('fails: %s', (_name, records, expected) => {
    expect(judge(records).violations.join('\n')).toMatch(expected)
  })
})
