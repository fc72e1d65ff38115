import { Refusal, type Window } from './refusal.ts'

interface Entry {
  readonly p: number
  readonly q: number
  readonly burst: number
  readonly backlog: number
  /** Before the store was asked, in milliseconds of this process: its decision came later, so nobody waits too long. */
  readonly askedAt: number
  /** What a request of this cost was told last, and until when the next one is told the same. */
  told?: { readonly refusal: Refusal; readonly window: Window; readonly until: number }
}

// A refusal is told again for a hundredth of the wait that it tells of, so that a flood does not pay for each of its own.
const SAME_FOR = 0.01
const SAME_FOR_AT_MOST_MS = 1_000

/** Who was refused and for how long, so that a flood costs no round trips. Bounded: the oldest are forgotten first. */
export class RefusedTable {
  readonly #entries = new Map<string, Entry>()
  readonly #maxEntries: number

  constructor(maxEntries = 10_000) {
    this.#maxEntries = maxEntries
  }

  get size(): number {
    return this.#entries.size
  }

  add({ key, rate }: Pick<Window, 'key' | 'rate'>, backlog: number, askedAt: number): void {
    this.#entries.delete(key)
    this.#entries.set(key, { p: rate.p, q: rate.q, burst: rate.burst, backlog, askedAt })
    if (this.#entries.size <= this.#maxEntries) return
    const oldest = this.#entries.keys().next()
    if (!oldest.done) this.#entries.delete(oldest.value)
  }

  /**
   * The refusal, where it is certain that the charge does not fit yet: a subject's backlog only falls with time. Undefined
   * where the store has to be asked.
   */
  refusalOf(window: Window, now: number): Refusal | undefined {
    const { key, rate, cost } = window
    const entry = this.#entries.get(key)
    if (entry === undefined) return undefined
    const { p, q, burst, told } = entry
    const backlog = entry.backlog - Math.ceil((now - entry.askedAt) * 1_000 * q)
    if (backlog <= 0 || p !== rate.p || q !== rate.q || burst !== rate.burst) {
      this.#entries.delete(key) // over, or the subject has another plan now
      return undefined
    }
    if (backlog + cost * p <= burst * p) return undefined
    if (told !== undefined && now < told.until && isTheSame(told.window, window)) return told.refusal
    const refusal = new Refusal([window], [{ fits: false, backlog }])
    const sameForMs = Math.min(SAME_FOR_AT_MOST_MS, (refusal.retryAfterMs ?? 0) * SAME_FOR)
    entry.told = { refusal, window, until: now + sameForMs }
    return refusal
  }

  /** Something was given back to the subject. */
  forget(key: string): void {
    this.#entries.delete(key)
  }
}

// Of a group one route may say 60 a minute and another one a second.
function isTheSame(one: Window, other: Window): boolean {
  return one.cost === other.cost && one.limit === other.limit && one.windowMs === other.windowMs
}
