import { OverloadedError, type RateLimitState } from '../errors.ts'
import { publish } from '../events.ts'
import type { Logger } from '../scope/logger.ts'
import { resetMsOf } from './gcra.ts'
import { LocalStore } from './local-store.ts'
import type { RedisStore } from './redis-store.ts'
import { type DecidedBy, publishRefused, Refusal, stateOf, type Window } from './refusal.ts'
import { RefusedTable } from './refused-table.ts'
import { passes, type Verdict } from './store.ts'

// After a failure the store is left alone for so long: a request each second finds out whether it is back.
const STORE_RETRY_MS = 1_000

/** What was taken, and where, so that it can be given back. */
export interface Consumption {
  readonly windows: readonly Window[]
  readonly from: 'store' | 'local'
}

/** How a request came through its limits. */
export type Decision =
  | { readonly tag: 'passed'; readonly states: readonly RateLimitState[]; readonly consumed: Consumption }
  | Refusal

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
    const groups = this.#store.isCluster ? groupsOf(refunds) : [refunds]
    for (const group of groups) this.#store.consume(group, timeoutMs).catch(() => {})
  }

  #remembered(windows: readonly Window[], now: number): Refusal | undefined {
    if (this.#refused.size === 0) return undefined
    for (let index = 0; index < windows.length; index++) {
      const window = windows[index] as Window
      if (window.shadow) continue
      const refusal = this.#refused.refusalOf(window, now)
      if (refusal === undefined) continue
      publishRefused(window, 'memory')
      return refusal
    }
    return undefined
  }

  #byStore(store: RedisStore, windows: readonly Window[], askedAt: number): Promise<Decision> {
    if (store.isCluster && !areOfOneSubject(windows)) return this.#bySeveral(store, windows, askedAt)
    return store.consume(windows, timeoutOf(windows)).then(
      (verdicts) => {
        if (this.#storeFailed) this.#storeAnswered()
        return passes(windows, verdicts)
          ? passed(windows, verdicts, 'store')
          : this.#refusedByStore(windows, verdicts, askedAt)
      },
      (error: unknown) => {
        this.#storeDown(error)
        return this.#withoutStore(windows, error)
      },
    )
  }

  /** In a cluster the windows of each subject are a round trip of their own, one after another. */
  async #bySeveral(store: RedisStore, windows: readonly Window[], askedAt: number): Promise<Decision> {
    const timeoutMs = timeoutOf(windows)
    const asked: Window[] = []
    const verdicts: Verdict[] = []
    try {
      for (const group of groupsOf(windows)) {
        const answer = await store.consume(group, timeoutMs)
        if (!passes(group, answer)) {
          this.giveBack(consumption(asked, verdicts, 'store'))
          this.#storeAnswered()
          return this.#refusedByStore(group, answer, askedAt)
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

  #refusedByStore(windows: readonly Window[], verdicts: readonly Verdict[], askedAt: number): Refusal {
    windows.forEach((window, index) => {
      const { fits, backlog } = verdicts[index] as Verdict
      if (!fits && !window.shadow) this.#refused.add(window, backlog, askedAt)
    })
    return refusal(windows, verdicts, 'store')
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
  let least = Number.POSITIVE_INFINITY
  for (const { rule } of windows) if (rule.storeTimeoutMs < least) least = rule.storeTimeoutMs
  return least
}

function areOfOneSubject([first, ...others]: readonly Window[]): boolean {
  return others.every(({ subject }) => subject === first?.subject)
}

/** What can be decided in one round trip each. */
function groupsOf<W extends Window>(windows: readonly W[]): readonly (readonly W[])[] {
  const groups = new Map<string, W[]>()
  for (const window of windows) {
    const group = groups.get(window.subject)
    if (group === undefined) groups.set(window.subject, [window])
    else group.push(window)
  }
  return [...groups.values()]
}

function passed(windows: readonly Window[], verdicts: readonly Verdict[], by: 'store' | 'local'): Decision {
  const states: RateLimitState[] = []
  for (let index = 0; index < windows.length; index++) {
    const window = windows[index] as Window
    const { fits, backlog } = verdicts[index] as Verdict
    if (!window.shadow) states.push(stateOf(window, backlog, resetMsOf(backlog, window.rate)))
    else if (!fits) publishRefused(window, by)
  }
  return { tag: 'passed', states, consumed: consumption(windows, verdicts, by) }
}

function consumption(windows: readonly Window[], verdicts: readonly Verdict[], from: 'store' | 'local'): Consumption {
  const all = verdicts.every(fits)
  return { windows: all ? windows : windows.filter((_, index) => verdicts[index]?.fits === true), from }
}

const fits = (verdict: Verdict): boolean => verdict.fits

function refusal(windows: readonly Window[], verdicts: readonly Verdict[], by: DecidedBy): Refusal {
  windows.forEach((window, index) => {
    if (verdicts[index]?.fits !== true) publishRefused(window, by)
  })
  return new Refusal(windows, verdicts)
}
