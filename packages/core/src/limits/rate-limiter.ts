import { OverloadedError, RateLimitExceededError, type RateLimitState } from '../errors.ts'
import { publish } from '../events.ts'
import type { Logger } from '../scope/logger.ts'
import { remainingOf, resetMsOf, retryAfterMsOf } from './gcra.ts'
import { LocalStore } from './local-store.ts'
import type { RateLimitRule } from './rate-limit-options.ts'
import type { RedisStore } from './redis-store.ts'
import { RefusedTable } from './refused-table.ts'
import { stackless } from './stackless.ts'
import { type Charge, passes, type Verdict } from './store.ts'

// After a failure the store is left alone for so long: a request each second finds out whether it is back.
const STORE_RETRY_MS = 1_000

/** What one limit asks for one request. */
export interface Window extends Charge {
  readonly rule: Pick<RateLimitRule<never>, 'name' | 'onStoreFailure' | 'storeTimeoutMs'>
  readonly limit: number
  readonly windowMs: number
  /** Whom it counts; windows of one subject are decided together, wherever they are kept. */
  readonly subject: string
}

/** What was taken, and where, so that it can be given back. */
export interface Consumption {
  readonly windows: readonly Window[]
  readonly from: 'store' | 'local'
}

/** How a request came through its limits. */
export type Decision =
  | { readonly tag: 'passed'; readonly states: readonly RateLimitState[]; readonly consumed: Consumption }
  | { readonly tag: 'refused'; readonly error: RateLimitExceededError }

const UNCOUNTED: Decision = { tag: 'passed', states: [], consumed: { windows: [], from: 'local' } }

/** Decides on rate limits: from memory where a refusal is certain, else by the store, else as the limit says. */
export class RateLimiter {
  readonly #store: RedisStore | undefined
  readonly #logger: () => Logger
  readonly #local = new LocalStore()
  readonly #refused = new RefusedTable()
  #storeRetryAt = Number.NEGATIVE_INFINITY
  #storeFailed = false

  /** @param store without one, counts are this process's own. */
  constructor(store: RedisStore | undefined, logger: () => Logger) {
    this.#store = store
    this.#logger = logger
  }

  /**
   * Consumes in every window, or in none where one of them refuses.
   *
   * @throws OverloadedError where the store can't be asked and a limit says `onStoreFailure: 'refuse'`.
   */
  decide(windows: readonly Window[]): Decision | Promise<Decision> {
    if (windows.length === 0) return UNCOUNTED
    if (this.#store === undefined) return this.#locally(windows)
    const now = performance.now()
    const remembered = this.#remembered(windows, now)
    if (remembered !== undefined) return remembered
    if (now < this.#storeRetryAt) return this.#withoutStore(windows, undefined)
    // While it is tried again by one request, the others do without.
    if (this.#storeFailed) this.#storeRetryAt = now + STORE_RETRY_MS
    return this.#byStore(this.#store, windows, now)
  }

  /** Gives back what a request consumed that was refused elsewhere. A failure is not told: what was taken expires by itself. */
  giveBack({ windows, from }: Consumption): void {
    if (windows.length === 0) return
    const refunds = windows.map((window) => ({ ...window, cost: -window.cost }))
    for (const { key } of refunds) this.#refused.forget(key)
    if (from === 'local' || this.#store === undefined) {
      this.#local.consume(refunds)
      return
    }
    const timeoutMs = timeoutOf(windows)
    for (const group of this.#groups(this.#store, refunds)) this.#store.consume(group, timeoutMs).catch(() => {})
  }

  #remembered(windows: readonly Window[], now: number): Decision | undefined {
    if (this.#refused.size === 0) return undefined
    for (const window of windows) {
      if (window.shadow) continue
      const backlog = this.#refused.backlogOf(window, now)
      if (backlog !== undefined) return refusal([window], [{ fits: false, backlog }], 'memory')
    }
    return undefined
  }

  async #byStore(store: RedisStore, windows: readonly Window[], askedAt: number): Promise<Decision> {
    const groups = this.#groups(store, windows)
    const timeoutMs = timeoutOf(windows)
    const asked: Window[] = []
    const verdicts: Verdict[] = []
    try {
      for (const group of groups) {
        const answer = await store.consume(group, timeoutMs)
        if (!passes(group, answer)) {
          this.giveBack(consumption(asked, verdicts, 'store'))
          group.forEach((window, index) => {
            const verdict = answer[index] as Verdict
            if (!verdict.fits && !window.shadow) this.#refused.add(window, verdict.backlog, askedAt)
          })
          this.#storeAnswered()
          return refusal(group, answer, 'store')
        }
        asked.push(...group)
        verdicts.push(...answer)
      }
    } catch (error) {
      this.#storeDown(error)
      this.giveBack(consumption(asked, verdicts, 'store'))
      return this.#withoutStore(windows, error)
    }
    this.#storeAnswered()
    return passed(asked, verdicts, 'store')
  }

  /** What can be decided in one round trip each. */
  #groups<W extends Window>(store: RedisStore, windows: readonly W[]): readonly (readonly W[])[] {
    const [first] = windows
    if (!store.isCluster || windows.every(({ subject }) => subject === first?.subject)) return [windows]
    const groups = new Map<string, W[]>()
    for (const window of windows) {
      const group = groups.get(window.subject)
      if (group === undefined) groups.set(window.subject, [window])
      else group.push(window)
    }
    return [...groups.values()]
  }

  #withoutStore(windows: readonly Window[], cause: unknown): Decision {
    const strict = windows.find(({ rule, shadow }) => rule.onStoreFailure === 'refuse' && !shadow)
    if (strict !== undefined) {
      throw new OverloadedError({
        reason: 'rate-limit-store',
        what: `A request under the rate limit "${strict.rule.name}"`,
        retryAfterMs: STORE_RETRY_MS,
        cause,
      })
    }
    const counted = windows.filter(({ rule }) => rule.onStoreFailure === 'local')
    return counted.length === 0 ? UNCOUNTED : this.#locally(counted)
  }

  #locally(windows: readonly Window[]): Decision {
    const verdicts = this.#local.consume(windows)
    return passes(windows, verdicts) ? passed(windows, verdicts, 'local') : refusal(windows, verdicts, 'local')
  }

  #storeDown(cause: unknown): void {
    this.#storeRetryAt = performance.now() + STORE_RETRY_MS
    publish('reqscope:rate-limit:store-failed', () => ({ cause }))
    if (this.#storeFailed) return
    this.#storeFailed = true
    this.#logger().warn(
      { err: cause },
      'rate limits can not be counted in their store; each limit does as its onStoreFailure says',
    )
  }

  #storeAnswered(): void {
    if (!this.#storeFailed) return
    this.#storeFailed = false
    this.#storeRetryAt = Number.NEGATIVE_INFINITY
    this.#logger().info({}, 'rate limits are counted in their store again')
  }
}

function timeoutOf(windows: readonly Window[]): number {
  return windows.reduce((least, { rule }) => Math.min(least, rule.storeTimeoutMs), Number.POSITIVE_INFINITY)
}

function stateOf({ rule, limit, windowMs, rate }: Window, backlog: number, resetMs: number): RateLimitState {
  return { name: rule.name, limit, windowMs, remaining: remainingOf(backlog, rate), resetMs }
}

function passed(windows: readonly Window[], verdicts: readonly Verdict[], by: 'store' | 'local'): Decision {
  const states: RateLimitState[] = []
  for (let index = 0; index < windows.length; index++) {
    const window = windows[index] as Window
    const { fits, backlog } = verdicts[index] as Verdict
    if (!window.shadow) states.push(stateOf(window, backlog, resetMsOf(backlog, window.rate)))
    else if (!fits) publish('reqscope:rate-limit:refused', () => ({ limit: window.rule.name, shadow: true, by }))
  }
  return { tag: 'passed', states, consumed: consumption(windows, verdicts, by) }
}

function consumption(windows: readonly Window[], verdicts: readonly Verdict[], from: 'store' | 'local'): Consumption {
  const all = verdicts.every(({ fits }) => fits)
  return { windows: all ? windows : windows.filter((_, index) => verdicts[index]?.fits === true), from }
}

function refusal(windows: readonly Window[], verdicts: readonly Verdict[], by: 'store' | 'memory' | 'local'): Decision {
  const violated: RateLimitState[] = []
  const others: RateLimitState[] = []
  let retryAfterMs: number | undefined = 0
  windows.forEach((window, index) => {
    const { rule, rate, cost, shadow } = window
    const { fits, backlog } = verdicts[index] as Verdict
    if (!fits) publish('reqscope:rate-limit:refused', () => ({ limit: rule.name, shadow, by }))
    if (shadow) return
    if (fits) {
      others.push(stateOf(window, backlog, resetMsOf(backlog, rate)))
      return
    }
    const passesInMs = retryAfterMsOf(backlog, cost, rate)
    if (retryAfterMs !== undefined) {
      retryAfterMs = passesInMs === undefined ? undefined : Math.max(retryAfterMs, passesInMs)
    }
    violated.push(stateOf(window, backlog, passesInMs ?? resetMsOf(backlog, rate)))
  })
  const facts = { violated: violated.map(({ name }) => name), states: [...violated, ...others], retryAfterMs }
  const error = stackless(() => new RateLimitExceededError(facts))
  return { tag: 'refused', error }
}
