import type { Record } from './record.ts'

export interface Verdict {
  readonly violations: readonly string[]
  readonly asks: number
  readonly holds: number
  readonly overlaps: number
  /** Holds whose holder was told that the lock was lost. */
  readonly lost: number
  readonly writes: number
  readonly staleWritesRefused: number
  readonly refusals: { readonly [code: string]: number }
  /** How long those waited who had the lock in the end, in ms. */
  readonly waits: { readonly median: number; readonly p99: number; readonly slowest: number }
}

interface Held {
  readonly hold: string
  readonly key: string
  readonly fence: number
  readonly from: number
  until: number
  over: number
  lost: boolean
}

export interface Pause {
  readonly process: string
  readonly from: number
  readonly to: number
}

export interface Cuts {
  readonly at: readonly number[]
  readonly noticeMs: number
  /** When processes stood still: such a holder hears of its end after that. */
  readonly pauses?: readonly Pause[]
}

const TYPED = new Set([
  'RSC_LOCK_TIMEOUT',
  'RSC_LOCK_UNAVAILABLE',
  'RSC_LOCK_LOST',
  'RSC_POOL_EXHAUSTED',
  'RSC_CONNECTION_LOST',
])

/**
 * Judges a history: no two holders of a key overlap while both were valid by their own clocks, fences only grow, no write of
 * a stale holder succeeded, and every ask ended in a hold or in an error of ours.
 *
 * @param connection where a lock is as good as its holder's connection: when connections were cut, and how long after that a
 *   holder may not have heard of it. Nothing else excuses two holders at once.
 */
export function judge(records: readonly Record[], connection?: Cuts): Verdict {
  const violations: string[] = []
  const asked = new Map<string, number>()
  const held = new Map<string, Held>()
  const waits: number[] = []
  const refusals: { [code: string]: number } = {}
  const writes = new Map<string, { fence: number; version: number; hold: string }[]>()
  const counts = { stale: 0, writes: 0 }
  for (const record of records) {
    switch (record.tag) {
      case 'asked':
        asked.set(record.hold, record.at)
        break
      case 'granted': {
        const { hold, key, fence, at, validUntil } = record
        const askedAt = asked.get(hold)
        if (askedAt === undefined) violations.push(`${hold} was granted without having asked`)
        else waits.push(at - askedAt)
        asked.delete(hold)
        held.set(hold, { hold, key, fence, from: at, until: validUntil, over: Number.POSITIVE_INFINITY, lost: false })
        break
      }
      case 'valid': {
        const it = held.get(record.hold)
        if (it !== undefined) it.until = Math.max(it.until, record.validUntil)
        break
      }
      case 'told': {
        const it = held.get(record.hold)
        if (it === undefined) break
        it.lost = true
        // Where a lock is as good as its connection, its holder stops when it hears that it is gone.
        if (connection !== undefined) it.over = Math.min(it.over, record.at)
        break
      }
      case 'done': {
        const it = held.get(record.hold)
        if (it === undefined) break
        it.over = Math.min(it.over, record.at)
        it.lost ||= record.lost
        break
      }
      case 'refused':
        asked.delete(record.hold)
        refusals[record.code] = (refusals[record.code] ?? 0) + 1
        if (!TYPED.has(record.code)) violations.push(`${record.hold} ended with ${record.code}`)
        break
      case 'wrote':
        counts.writes++
        writes.set(record.key, [...(writes.get(record.key) ?? []), record])
        break
      case 'stale':
        counts.stale++
        break
    }
  }
  for (const hold of asked.keys()) violations.push(`${hold} asked and never heard`)
  const overlaps = [...byKey(held.values())].flatMap((holds) => overlapsOf(holds, connection))
  violations.push(...overlaps)
  for (const holds of byKey(held.values())) violations.push(...fencesOf(holds, connection))
  for (const [key, written] of writes) violations.push(...writesOf(key, written))
  return {
    violations,
    asks: waits.length + Object.values(refusals).reduce((sum, count) => sum + count, 0) + asked.size,
    holds: held.size,
    overlaps: overlaps.length,
    lost: [...held.values()].filter(({ lost }) => lost).length,
    writes: counts.writes,
    staleWritesRefused: counts.stale,
    refusals,
    waits: spread(waits),
  }
}

function byKey(holds: Iterable<Held>): Iterable<Held[]> {
  const keys = new Map<string, Held[]>()
  for (const hold of holds) keys.set(hold.key, [...(keys.get(hold.key) ?? []), hold])
  for (const each of keys.values()) each.sort((a, b) => a.from - b.from)
  return keys.values()
}

/** It counts as holding from its function's beginning until that was over or its own clock said so. */
function overlapsOf(holds: readonly Held[], connection: Cuts | undefined): string[] {
  const found: string[] = []
  let last: Held | undefined
  const end = (hold: Held) => Math.min(hold.until, hold.over)
  for (const hold of holds) {
    if (last !== undefined && hold.from < end(last) && !isExcused(last.hold, hold.from, end(last), connection)) {
      found.push(
        `${hold.hold} began ${(end(last) - hold.from).toFixed(2)} ms before ${last.hold} had ended, on ${hold.key}`,
      )
    }
    if (last === undefined || end(hold) > end(last)) last = hold
  }
  return found
}

/** Whether a connection was cut before `from`, so shortly before `until` that this holder need not have heard of it. */
function isExcused(hold: string, from: number, until: number, connection: Cuts | undefined): boolean {
  if (connection === undefined) return false
  const { at, noticeMs, pauses = [] } = connection
  const own = pauses.filter(({ process }) => hold.startsWith(`${process}.`))
  return at.some((cut) => {
    if (cut > from) return false
    const paused = own.filter((pause) => pause.from <= cut + noticeMs && pause.to > cut)
    return until <= Math.max(cut, ...paused.map(({ to }) => to)) + noticeMs
  })
}

/** In the order in which they were granted; a holder that was paused before its function began comes too late to tell. */
function fencesOf(holds: readonly Held[], connection: Cuts | undefined): string[] {
  const found: string[] = []
  const seen = new Set<number>()
  let greatest: Held | undefined
  for (const hold of holds) {
    if (seen.has(hold.fence)) found.push(`${hold.hold} has the fence of another holder, ${hold.fence}`)
    seen.add(hold.fence)
    if (
      greatest !== undefined &&
      hold.fence < greatest.fence &&
      hold.from < hold.until &&
      !isExcused(hold.hold, greatest.from, hold.from, connection)
    ) {
      found.push(`${hold.hold} has fence ${hold.fence} after ${greatest.hold} had ${greatest.fence}`)
    }
    if (greatest === undefined || hold.fence > greatest.fence) greatest = hold
  }
  return found
}

function writesOf(key: string, writes: readonly { fence: number; version: number; hold: string }[]): string[] {
  const found: string[] = []
  const inOrder = writes.toSorted((a, b) => a.version - b.version)
  for (const [index, write] of inOrder.entries()) {
    const before = inOrder[index - 1]
    if (before !== undefined && write.fence < before.fence) {
      found.push(`${write.hold} wrote to ${key} with fence ${write.fence} after ${before.fence} had been written`)
    }
    if (before !== undefined && write.version === before.version) found.push(`a write to ${key} was lost`)
  }
  return found
}

function spread(waits: readonly number[]): Verdict['waits'] {
  const sorted = waits.toSorted((a, b) => a - b)
  const at = (share: number) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0
  return { median: at(0.5), p99: at(0.99), slowest: sorted.at(-1) ?? 0 }
}
