import { OptionReader } from '../options.ts'
import type { Priority } from './concurrency.ts'

/** What the adaptive limit keeps to. */
export interface AdaptiveOptions {
  /** It never lets fewer in at once. Default 8. */
  readonly min?: number
  /** It never lets more in at once. Default 1,000. */
  readonly max?: number
  /** How many it lets in at once to begin with. Default 50. */
  readonly initial?: number
  /** By how much answers may take longer than they used to before it lets fewer in. Default 2: twice as long. */
  readonly tolerance?: number
}

// How much of the limit each may take up: what is left is for those who matter more.
const SHARE: { readonly [Each in Priority]: number } = { critical: 1, normal: 0.9, background: 0.5 }
const UPDATE_EVERY_MS = 100
const MIN_SAMPLES = 10
const SMOOTHING = 0.2
/** Faster than this is fast: the pause of a garbage collector does not make it slow. */
const FAST_MS = 5
const BASELINE_FALLS_BY = 0.05
/** A baseline rises as slowly as this, so that an overload of some minutes does not become what is normal. */
const BASELINE_RISES_OVER_MS = 600_000

/** How long answers of one route usually take: falls soon, rises slowly. */
export class Baseline {
  #ms: number | undefined
  #at = 0

  /** How many times as long this one took. */
  ratioOf(tookMs: number, now: number): number {
    const before = this.#ms ?? tookMs
    const weight = tookMs < before ? BASELINE_FALLS_BY : Math.min(1, (now - this.#at) / BASELINE_RISES_OVER_MS)
    this.#ms = before + (tookMs - before) * weight
    this.#at = now
    return tookMs / Math.max(before, FAST_MS)
  }
}

/**
 * How many requests are let in at once, by how long answers take: as long as they take as long as they used to it grows, once
 * they take longer it shrinks by as much. The gradient of Netflix' concurrency-limits (Gradient2), with a baseline for each
 * route, so that a route that is slow by nature does not look like an overload.
 */
export class AdaptiveLimit {
  readonly #min: number
  readonly #max: number
  readonly #tolerance: number
  #limit: number
  #active = 0
  #peak = 0
  #samples = 0
  #sum = 0
  #updatedAt = 0

  /** @throws InvalidOptionError naming the option that is wrong. */
  constructor(options: AdaptiveOptions, prefix: string) {
    const read = new OptionReader(prefix, options).onlyKnown(['min', 'max', 'initial', 'tolerance'])
    this.#min = read.integer('min', 8, { min: 1 })
    this.#max = read.integer('max', Math.max(1_000, this.#min), { min: this.#min })
    this.#limit = read.integer('initial', Math.min(this.#max, Math.max(this.#min, 50)), {
      min: this.#min,
      max: this.#max,
    })
    this.#tolerance = read.integer('tolerance', 2, { min: 1, max: 100 })
  }

  /** How many it lets in at once. */
  get limit(): number {
    return Math.floor(this.#limit)
  }

  get active(): number {
    return this.#active
  }

  /** Whether there is a place; whoever has one gives it back with `leave`. */
  enter(priority: Priority): boolean {
    if (this.#active >= Math.max(1, Math.floor(this.#limit * SHARE[priority]))) return false
    this.#active++
    if (this.#active > this.#peak) this.#peak = this.#active
    return true
  }

  /** @param ratio how many times as long as usual it took; undefined where it says nothing: it failed or was aborted. */
  leave(ratio: number | undefined, now: number): void {
    this.#active--
    if (ratio === undefined) return
    this.#samples++
    this.#sum += ratio
    if (now - this.#updatedAt >= UPDATE_EVERY_MS && this.#samples >= MIN_SAMPLES) this.#update(now)
  }

  #update(now: number): void {
    const ratio = this.#sum / this.#samples
    const gradient = Math.max(0.5, Math.min(1, this.#tolerance / ratio))
    // Where not even half of it was used, nothing is learnt of what it could be.
    if (gradient < 1 || this.#peak >= this.#limit / 2) {
      const next = this.#limit * gradient + Math.sqrt(this.#limit)
      this.#limit = Math.max(this.#min, Math.min(this.#max, this.#limit + (next - this.#limit) * SMOOTHING))
    }
    this.#samples = this.#sum = 0
    this.#peak = this.#active
    this.#updatedAt = now
  }
}
