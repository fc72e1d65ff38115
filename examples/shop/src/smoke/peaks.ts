import type { Faults } from './faults.ts'
import { type Outside, residentMiB } from './outside.ts'

/** Watches from outside how far the shop goes while it is under load. */
export class Peaks {
  /** The most Postgres backends at one time. One that was just killed may still be listed, so those do not count. */
  backends = 0
  /** The RSS after the warm-up, and the highest one since. */
  settledMiB = Number.NaN
  rssMiB = Number.NaN
  readonly #outside: Outside
  readonly #faults: Faults
  readonly #pid: number
  readonly #warmUntil: number

  constructor(outside: Outside, faults: Faults, pid: number, warmUpMs: number) {
    this.#outside = outside
    this.#faults = faults
    this.#pid = pid
    this.#warmUntil = performance.now() + warmUpMs
  }

  async sample(): Promise<void> {
    const backends = (await this.#outside.backends()).filter(({ pid }) => !this.#faults.killed.has(pid))
    this.backends = Math.max(this.backends, backends.length)
    if (performance.now() < this.#warmUntil) return
    const rssMiB = residentMiB(this.#pid)
    if (Number.isNaN(this.settledMiB)) this.settledMiB = this.rssMiB = rssMiB
    else if (rssMiB > this.rssMiB) this.rssMiB = rssMiB
  }

  get rssGrowthMiB(): number {
    return this.rssMiB - this.settledMiB
  }
}
