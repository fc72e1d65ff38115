import { InvalidOptionError, LockTimeoutError, type ReqscopeError, ScopeEndedError } from '../errors.ts'
import { publish } from '../events.ts'
import { type Context, currentContext, findInContext, outsideEveryScope, runWithin } from '../scope/current.ts'
import type { AnyLock, ManualRelease, ScopeLocks, TransactionBond } from '../scope/locker.ts'
import type { Scope } from '../scope/scope.ts'
import type { Hold } from './hold.ts'
import type { LockConfig } from './options.ts'

/** A lock of one scope, with all who use it: functions, handles, and transactions that have to end first. */
export class ScopedHold {
  readonly hold: Hold
  readonly mode: 'exclusive' | 'shared'
  /** Taken by hand: all code of the scope counts as under it. */
  readonly isManual: boolean
  /** Functions and handles. */
  users = 0
  readonly transactions = new Set<object>()
  onIdle: (() => void)[] | undefined

  constructor(hold: Hold, mode: 'exclusive' | 'shared', isManual: boolean) {
    this.hold = hold
    this.mode = mode
    this.isManual = isManual
  }

  covers(key: string): boolean {
    return this.hold.keys.includes(key)
  }
}

/** The locks one scope holds or waits for. */
export class LocksOfScope implements ScopeLocks {
  readonly #scope: Scope
  readonly #holds = new Set<ScopedHold>()
  readonly #waiting = new Set<AbortController>()

  constructor(scope: Scope) {
    this.#scope = scope
    scope.locks = this
  }

  refusal(context: Context | undefined): ReqscopeError | undefined {
    for (const held of this.#holds) {
      const lost = held.hold.lostError
      // Where the context was lost, nobody can say that the code is not under the lock.
      if (lost !== undefined && (held.isManual || context?.scope !== this.#scope || isInside(context, held))) {
        return lost
      }
    }
    return undefined
  }

  cancelled(reason: ReqscopeError): void {
    for (const controller of this.#waiting) controller.abort(reason)
  }

  async end(): Promise<void> {
    if (this.#waiting.size > 0) {
      this.cancelled(new ScopeEndedError({ scope: this.#scope.describe(), resource: 'lock' }))
    }
    const left = [...this.#holds]
    for (const { hold } of left) {
      hold.lose('scope-ended')
      const holder = this.#scope.describe()
      publish('reqscope:lock:reclaimed', () => ({ keys: hold.keys, holder }))
      this.#scope.log.warn({ keys: hold.keys, scope: holder }, 'a scope ended while it held a lock; it was released')
    }
    this.#holds.clear()
    this.#forgetIfIdle()
    await Promise.all(left.map(({ hold }) => hold.release()))
  }

  /** A signal for waiting, which the scope's cancellation fires; `done` when it is over. */
  startWaiting(): AbortController {
    const controller = new AbortController()
    this.#waiting.add(controller)
    return controller
  }

  doneWaiting(controller: AbortController | undefined): void {
    if (controller !== undefined) this.#waiting.delete(controller)
    this.#forgetIfIdle()
  }

  /**
   * Enters a lock of these keys that the code which runs now is inside of, or may share; undefined where there is none.
   * `run` or `handle` has to follow.
   *
   * @throws InvalidOptionError where it holds some of them only, or shared ones that are to become exclusive.
   */
  async enterHeld(keys: readonly string[], config: LockConfig): Promise<ScopedHold | undefined> {
    const startedAt = performance.now()
    for (;;) {
      const held = this.#enterable(keys, config)
      if (held === undefined) return undefined
      if (held.users === 0 || config.reentrant || isInside(currentContext(), held)) {
        this.#checkFit(held, keys, config)
        this.#use(held) // at once: its transaction may end any moment
        return held
      }
      // It is in use by a parallel branch of the same transaction, which keeps it until its end.
      const leftMs = config.waitMs - (performance.now() - startedAt)
      if (leftMs <= 0 || !(await this.#idle(held, leftMs, config.signal))) {
        const waitedMs = performance.now() - startedAt
        throw new LockTimeoutError({ keys, waitedMs, bySameScope: true })
      }
    }
  }

  /** Enters a lock that was just taken; `run` or `handle` has to follow. */
  add(held: ScopedHold): void {
    this.#holds.add(held)
    this.#use(held)
  }

  /** Runs `fn` under the lock. The caller's error always wins; a lock that was lost meanwhile is the next thing to tell. */
  async run<Result>(held: ScopedHold, fn: (lock: AnyLock) => Result | Promise<Result>): Promise<Result> {
    try {
      const context = currentContext()
      const parent = context?.scope === this.#scope ? context : this.#scope
      const result = await runWithin(parent, held, held, async () => fn(held.hold))
      const lost = held.hold.lostError
      if (lost !== undefined) throw lost
      return result
    } finally {
      const releasing = this.#unuse(held)
      if (releasing !== undefined && held.hold.isReleasedByScope) await releasing
    }
  }

  handle(held: ScopedHold): AnyLock & ManualRelease {
    let released: Promise<void> | undefined
    const release = () => {
      released ??= this.#unuse(held) ?? Promise.resolve()
      return released
    }
    const { hold } = held
    return {
      keys: hold.keys,
      key: hold.key,
      fence: hold.fence,
      get signal() {
        return hold.signal
      },
      get expiresAt() {
        return hold.expiresAt
      },
      extend: (ms) => hold.extend(ms),
      release,
      [Symbol.asyncDispose]: release,
    }
  }

  #use(held: ScopedHold): void {
    held.users++
    const context = currentContext()
    // Transactions are links of the context: a bare scope is in none.
    if (context?.scope !== this.#scope || context.parent === undefined) return
    for (const resource of this.#scope.transactionals) {
      const around = resource.transactionAround?.(this.#scope)
      if (around === undefined || held.transactions.has(around)) continue
      held.transactions.add(around)
      const bond: TransactionBond = {
        obstacle: () => held.hold.lostError,
        ended: () => {
          held.transactions.delete(around)
          void this.#settle(held)
        },
      }
      resource.tie?.(this.#scope, bond)
    }
  }

  #unuse(held: ScopedHold): Promise<void> | undefined {
    held.users--
    return this.#settle(held)
  }

  /** Gives it back once nobody uses it and no transaction has to end first; until then it can be entered again. */
  #settle(held: ScopedHold): Promise<void> | undefined {
    if (held.users > 0) return undefined
    if (held.transactions.size > 0) {
      for (const resume of held.onIdle?.splice(0) ?? []) resume()
      return undefined
    }
    if (!this.#holds.delete(held)) return undefined
    for (const resume of held.onIdle?.splice(0) ?? []) resume()
    this.#forgetIfIdle()
    return held.hold.release()
  }

  #enterable(keys: readonly string[], config: LockConfig): ScopedHold | undefined {
    for (const held of this.#holds) {
      if (!keys.some((key) => held.covers(key))) continue
      if (config.reentrant || isInside(currentContext(), held) || this.#sharesTransaction(held)) return held
    }
    return undefined
  }

  #sharesTransaction(held: ScopedHold): boolean {
    if (held.transactions.size === 0) return false
    return this.#scope.transactionals.some((resource) => {
      const around = resource.transactionAround?.(this.#scope)
      return around !== undefined && held.transactions.has(around)
    })
  }

  #checkFit(held: ScopedHold, keys: readonly string[], config: LockConfig): void {
    const lost = held.hold.lostError
    if (lost !== undefined) throw lost
    if (!keys.every((key) => held.covers(key))) {
      throw new InvalidOptionError(
        'lock.keys',
        keys,
        'held all or not at all by the code that asks: take them together',
      )
    }
    if (config.mode === 'exclusive' && config.limit === undefined && held.mode === 'shared') {
      throw new InvalidOptionError(
        'lock.mode',
        config.mode,
        "'shared' inside a shared lock of the same key: two readers who both wait to be the writer wait for ever",
      )
    }
  }

  /** Whether its function ends within so many milliseconds. */
  #idle(held: ScopedHold, ms: number, signal: AbortSignal | undefined): Promise<boolean> {
    return new Promise((resolve, reject) => {
      const controller = this.startWaiting()
      const over = (outcome: () => void) => {
        clearTimeout(timer)
        this.doneWaiting(controller)
        outcome()
      }
      const timer = outsideEveryScope(() => setTimeout(() => over(() => resolve(false)), ms))
      const waiting = signal === undefined ? controller.signal : AbortSignal.any([signal, controller.signal])
      waiting.addEventListener('abort', () => over(() => reject(waiting.reason)), { once: true })
      held.onIdle ??= []
      held.onIdle.push(() => over(() => resolve(true)))
    })
  }

  #forgetIfIdle(): void {
    if (this.#holds.size === 0 && this.#waiting.size === 0 && this.#scope.locks === this) this.#scope.locks = undefined
  }
}

function isInside(context: Context | undefined, held: ScopedHold): boolean {
  return findInContext(context, held) === held
}
