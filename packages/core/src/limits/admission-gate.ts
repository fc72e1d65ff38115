import { OverloadedError } from '../errors.ts'
import { publish } from '../events.ts'
import type { Outcome } from '../scope/cleanup-stack.ts'
import type { AnyResource } from '../scope/resource.ts'
import type { Permit, Scope } from '../scope/scope.ts'
import { type AdaptiveLimit, Baseline } from './adaptive.ts'
import type { ConcurrencyLimit, Priority } from './concurrency.ts'
import { stackless } from './stackless.ts'

interface Slots {
  readonly slots: readonly { readonly name: string; readonly resource: AnyResource }[]
}

// What who is refused by the adaptive limit is told: by then it has let more in, or fewer for a reason.
const ADAPTIVE_RETRY_MS = 1_000

/** What stands at the door of a route: lets a request in now, in turn, or not at all. It touches no connection. */
export class AdmissionGate {
  readonly #concurrency: ConcurrencyLimit | undefined
  readonly #adaptive: AdaptiveLimit | undefined
  readonly #priority: Priority
  readonly #resources: Slots['slots']
  readonly #baseline = new Baseline()
  /** Which of the runtime's resources the route's requests have used, as bits. */
  #used = 0

  constructor(options: {
    readonly concurrency: ConcurrencyLimit | undefined
    readonly adaptive: AdaptiveLimit | undefined
    readonly priority: Priority
    readonly resources: Slots['slots']
  }) {
    this.#concurrency = options.concurrency
    this.#adaptive = options.adaptive
    this.#priority = options.priority
    this.#resources = options.resources
  }

  /**
   * Lets the scope in, at once or when it is its turn. It is out again when it has ended.
   *
   * @throws OverloadedError where it is refused: at once, or as a rejection.
   */
  enter(scope: Scope): Promise<void> | undefined {
    try {
      return this.#enter(scope)?.catch((error: unknown) => reported(scope, error))
    } catch (error) {
      return reported(scope, error)
    }
  }

  #enter(scope: Scope): Promise<void> | undefined {
    const leftMs = scope.deadline === undefined ? Number.POSITIVE_INFINITY : scope.deadline - Date.now()
    if (leftMs !== Number.POSITIVE_INFINITY) this.#refuseHopeless(scope, leftMs)
    if (this.#adaptive?.enter(this.#priority) === false) {
      const { name: what } = scope
      throw stackless(() => new OverloadedError({ reason: 'adaptive', what, retryAfterMs: ADAPTIVE_RETRY_MS }))
    }
    if (this.#concurrency === undefined) {
      scope.hold(new GatePermit(this))
      return undefined
    }
    try {
      const turn = this.#concurrency.enter(scope.name, this.#priority, leftMs)
      if (turn !== undefined) return this.#wait(this.#concurrency, turn, scope)
    } catch (error) {
      this.#adaptive?.leave(undefined, 0)
      throw error
    }
    scope.hold(new GatePermit(this))
    return undefined
  }

  async #wait(
    concurrency: ConcurrencyLimit,
    turn: NonNullable<ReturnType<ConcurrencyLimit['enter']>>,
    scope: Scope,
  ): Promise<void> {
    const giveUp = () => turn.leave(scope.signal.reason)
    scope.signal.addEventListener('abort', giveUp, { once: true })
    try {
      await turn.granted
    } catch (error) {
      this.#adaptive?.leave(undefined, 0)
      throw error
    } finally {
      scope.signal.removeEventListener('abort', giveUp)
    }
    if (scope.state === 'open') {
      scope.hold(new GatePermit(this))
      return
    }
    // It has ended while the turn was on its way to it.
    concurrency.leave(0)
    this.#adaptive?.leave(undefined, 0)
    throw scope.signal.reason
  }

  /** A wait for a connection that outlasts the deadline would only make the wait of others longer. */
  #refuseHopeless(scope: Scope, leftMs: number): void {
    for (let slot = 0; this.#used >> slot > 0; slot++) {
      if (((this.#used >> slot) & 1) === 0) continue
      const waitMs = this.#resources[slot]?.resource.expectedWaitMs?.() ?? 0
      if (waitMs <= leftMs) continue
      const { name: what } = scope
      throw stackless(() => new OverloadedError({ reason: 'pool-wait', what, retryAfterMs: waitMs }))
    }
  }

  /** @internal A scope that was let in has ended. */
  left(scope: Scope, outcome: Outcome, enteredAt: number): void {
    const now = performance.now()
    const tookMs = now - enteredAt
    this.#used |= scope.usedSlots
    this.#concurrency?.leave(tookMs)
    if (this.#adaptive === undefined) return
    this.#adaptive.leave(outcome.tag === 'completed' ? this.#baseline.ratioOf(tookMs, now) : undefined, now)
  }
}

function reported(scope: Scope, error: unknown): never {
  if (error instanceof OverloadedError) {
    const { reason, retryAfterMs } = error
    publish('reqscope:overload:refused', () => ({ scope: scope.describe(), reason, retryAfterMs }))
  }
  throw error
}

class GatePermit implements Permit {
  readonly #gate: AdmissionGate
  readonly #enteredAt = performance.now()

  constructor(gate: AdmissionGate) {
    this.#gate = gate
  }

  scopeEnded(scope: Scope, outcome: Outcome): void {
    this.#gate.left(scope, outcome, this.#enteredAt)
  }
}
