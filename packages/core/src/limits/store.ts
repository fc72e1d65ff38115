import type { Rate } from './gcra.ts'

/** What one window asks of the store. */
export interface Charge {
  /** Where the window's count of this subject is kept. */
  readonly key: string
  readonly rate: Rate
  /** How much it takes; a negative one gives back. */
  readonly cost: number
  /** Counted where there is room, but never a reason to refuse. */
  readonly shadow: boolean
}

/** What a store says of one window. */
export interface Verdict {
  /** Whether the charge fitted. */
  readonly fits: boolean
  /** The backlog after the decision, in units of the rate. */
  readonly backlog: number
}

/** Whether a request with these charges and verdicts passes: a refused one has consumed nothing, in no window. */
export function passes(charges: readonly Charge[], verdicts: readonly Verdict[]): boolean {
  for (let index = 0; index < verdicts.length; index++) {
    if (verdicts[index]?.fits !== true && charges[index]?.shadow !== true) return false
  }
  return true
}
