import { type Arrival, arrivalOf, backlogAt, fits } from './gcra.ts'
import { type Charge, passes, type Verdict } from './store.ts'

/** The time in whole microseconds; it never goes back, whatever is done to the machine's clock. */
export function monotonicUs(): number {
  return Math.floor((performance.timeOrigin + performance.now()) * 1_000)
}

// How many entries are looked at for each one that is added: what has expired goes sooner than it comes.
const SWEEP = 2

/** Counts of this process only: what limits fall back on, or use where there is no Redis. Bounded in size. */
export class LocalStore {
  readonly #arrivals = new Map<string, Arrival>()
  readonly #maxKeys: number
  readonly #nowUs: () => number
  #sweep: Iterator<[string, Arrival]> = this.#arrivals.entries()

  /** @param options.maxKeys how many subjects are known at most; beyond it the one that came first is forgotten. */
  constructor(options: { readonly maxKeys?: number; readonly nowUs?: () => number } = {}) {
    this.#maxKeys = options.maxKeys ?? 100_000
    this.#nowUs = options.nowUs ?? monotonicUs
  }

  get size(): number {
    return this.#arrivals.size
  }

  /** Decides on all charges at once: consumes in each window with room, or in none at all. */
  consume(charges: readonly Charge[]): Verdict[] {
    const now = this.#nowUs()
    const before = charges.map(({ key, rate }) => backlogAt(now, this.#arrivals.get(key), rate))
    const verdicts = charges.map(({ rate, cost }, index) => {
      const backlog = before[index] ?? 0
      return { fits: fits(backlog, cost, rate), backlog }
    })
    if (!passes(charges, verdicts)) return verdicts
    return charges.map((charge, index) => {
      const { fits, backlog } = verdicts[index] as Verdict
      if (!fits || charge.cost === 0) return { fits, backlog }
      const after = Math.max(0, backlog + charge.cost * charge.rate.p)
      this.#put(charge.key, arrivalOf(now, after, charge.rate), now)
      return { fits, backlog: after }
    })
  }

  #put(key: string, arrival: Arrival, now: number): void {
    this.#arrivals.delete(key) // so that the map is in the order of the last use
    this.#arrivals.set(key, arrival)
    for (let count = 0; count < SWEEP; count++) this.#sweepOne(now)
    if (this.#arrivals.size <= this.#maxKeys) return
    const oldest = this.#arrivals.keys().next()
    if (!oldest.done) this.#arrivals.delete(oldest.value)
  }

  #sweepOne(now: number): void {
    const next = this.#sweep.next()
    if (next.done) this.#sweep = this.#arrivals.entries()
    else if (next.value[1].us < now) this.#arrivals.delete(next.value[0])
  }
}
