import { RateLimitExceededError, type RateLimitState } from '../errors.ts'
import { eventChannel } from '../events.ts'
import { remainingOf, resetMsOf, retryAfterMsOf } from './gcra.ts'
import type { RateLimitRule } from './rate-limit-options.ts'
import { stackless } from './stackless.ts'
import type { Charge, Verdict } from './store.ts'

/** What one limit asks for one request. */
export interface Window extends Charge {
  readonly rule: Pick<RateLimitRule<never>, 'name' | 'onStoreFailure' | 'storeTimeoutMs'>
  readonly limit: number
  readonly windowMs: number
  /** Whom it counts; windows of one subject are decided together, wherever they are kept. */
  readonly subject: string
}

/** Who decided: the store, this process's memory of what the store said, or its own counts. */
export type DecidedBy = 'store' | 'memory' | 'local'

const refused = eventChannel('reqscope:rate-limit:refused')

/** Publishes that a limit refused, or would have. */
export function publishRefused({ rule, shadow }: Window, by: DecidedBy): void {
  if (refused.hasSubscribers) refused.publish({ limit: rule.name, shadow, by })
}

/** A refusal, before anybody asks for it as an error: under a flood of them nobody may. */
export class Refusal {
  readonly tag = 'refused'
  /** The names of the limits that refused. */
  readonly violated: readonly string[]
  /** Every limit that is known of, those that refused first. */
  readonly states: readonly RateLimitState[]
  /** When it passes; undefined where it never will. */
  readonly retryAfterMs: number | undefined

  constructor(windows: readonly Window[], verdicts: readonly Verdict[]) {
    const violated: RateLimitState[] = []
    const others: RateLimitState[] = []
    let retryAfterMs: number | undefined = 0
    for (let index = 0; index < windows.length; index++) {
      const window = windows[index] as Window
      const { fits, backlog } = verdicts[index] as Verdict
      if (window.shadow) continue
      if (fits) {
        others.push(stateOf(window, backlog, resetMsOf(backlog, window.rate)))
        continue
      }
      const passesInMs = retryAfterMsOf(backlog, window.cost, window.rate)
      if (retryAfterMs !== undefined) {
        retryAfterMs = passesInMs === undefined ? undefined : Math.max(retryAfterMs, passesInMs)
      }
      violated.push(stateOf(window, backlog, passesInMs ?? resetMsOf(backlog, window.rate)))
    }
    this.violated = violated.map(({ name }) => name)
    this.states = [...violated, ...others]
    this.retryAfterMs = retryAfterMs
  }

  /** A new one each time: whoever catches it may write on it. */
  toError(): RateLimitExceededError {
    return stackless(() => new RateLimitExceededError(this))
  }
}

export function stateOf({ rule, limit, windowMs, rate }: Window, backlog: number, resetMs: number): RateLimitState {
  return { name: rule.name, limit, windowMs, remaining: remainingOf(backlog, rate), resetMs }
}
