import type { Charge } from './store.ts'

interface Refusal {
  readonly p: number
  readonly q: number
  readonly burst: number
  readonly backlog: number
  /** Before the store was asked, in milliseconds of this process: its decision came later, so nobody waits too long. */
  readonly askedAt: number
}

/** Who was refused and for how long, so that a flood costs no round trips. Bounded: the oldest are forgotten first. */
export class RefusedTable {
  readonly #refusals = new Map<string, Refusal>()
  readonly #maxEntries: number

  constructor(maxEntries = 10_000) {
    this.#maxEntries = maxEntries
  }

  get size(): number {
    return this.#refusals.size
  }

  add({ key, rate }: Charge, backlog: number, askedAt: number): void {
    this.#refusals.delete(key)
    this.#refusals.set(key, { p: rate.p, q: rate.q, burst: rate.burst, backlog, askedAt })
    if (this.#refusals.size <= this.#maxEntries) return
    const oldest = this.#refusals.keys().next()
    if (!oldest.done) this.#refusals.delete(oldest.value)
  }

  /**
   * The backlog that this subject has at least, where it is certain that the charge does not fit yet: its backlog only falls
   * with time. Undefined where the store has to be asked.
   */
  backlogOf({ key, rate, cost }: Charge, now: number): number | undefined {
    const refusal = this.#refusals.get(key)
    if (refusal === undefined) return undefined
    const { p, q, burst } = refusal
    const backlog = refusal.backlog - Math.ceil((now - refusal.askedAt) * 1_000 * q)
    if (backlog <= 0 || p !== rate.p || q !== rate.q || burst !== rate.burst) {
      this.#refusals.delete(key) // over, or the subject has another plan now
      return undefined
    }
    return backlog + cost * p > burst * p ? backlog : undefined
  }

  /** Something was given back to the subject. */
  forget(key: string): void {
    this.#refusals.delete(key)
  }
}
