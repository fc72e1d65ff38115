import { LockTimeoutError, type ReqscopeError, ScopeEndedError } from '../errors.ts'
import { publish } from '../events.ts'
import { type Context, currentContext, outsideEveryScope, runWithin } from '../scope/current.ts'
import type { AnyLock, ManualRelease, ScopeLocks } from '../scope/locker.ts'
import type { Scope } from '../scope/scope.ts'
import type { LockConfig } from './options.ts'
import type { ScopedHold } from './scoped-hold.ts'

/** Somebody whose waiting ends with the scope. */
interface Cancellable {
  cancel(reason: ReqscopeError): void
}

/** The locks one scope holds or waits for: few, so they are in arrays, made when there are any. */
export class LocksOfScope implements ScopeLocks {
  readonly #scope: Scope
  #holds: ScopedHold[] | undefined
  #waiting: Cancellable[] | undefined

  constructor(scope: Scope) {
    this.#scope = scope
    scope.locks = this
  }

  refusal(context: Context | undefined): ReqscopeError | undefined {
    if (this.#holds === undefined) return undefined
    for (const held of this.#holds) {
      const lost = held.hold.lostError
      // Where the context was lost, nobody can say that the code is not under the lock.
      if (lost !== undefined && (held.isManual || context?.scope !== this.#scope || held.isAround(context))) {
        return lost
      }
    }
    return undefined
  }

  cancelled(reason: ReqscopeError): void {
    for (const waiting of [...(this.#waiting ?? [])]) waiting.cancel(reason)
  }

  async end(): Promise<void> {
    this.cancelled(new ScopeEndedError({ scope: this.#scope.describe(), resource: 'lock' }))
    const left = this.#holds ?? []
    this.#holds = undefined
    for (const { hold } of left) {
      hold.lose('scope-ended')
      const holder = this.#scope.describe()
      publish('reqscope:lock:reclaimed', () => ({ keys: hold.keys, holder }))
      this.#scope.log.warn({ keys: hold.keys, scope: holder }, 'a scope ended while it held a lock; it was released')
    }
    this.#forgetIfIdle()
    await Promise.all(left.map(({ hold }) => hold.release()))
  }

  /** The scope's cancellation ends this waiting; `doneWaiting` has to follow. */
  startWaiting(waiting: Cancellable): void {
    this.#waiting ??= []
    this.#waiting.push(waiting)
    const reason = this.#scope.cancelReason
    if (reason !== undefined) waiting.cancel(reason)
  }

  doneWaiting(waiting: Cancellable): void {
    remove(this.#waiting, waiting)
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
      if (held.users === 0 || config.reentrant || held.isAround(currentContext())) {
        held.checkFit(keys, config)
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
    this.#holds ??= []
    this.#holds.push(held)
    this.#use(held)
  }

  /** Runs `fn` under the lock. The caller's error always wins; a lock that was lost meanwhile is the next thing to tell. */
  async run<Result>(held: ScopedHold, fn: (lock: AnyLock) => Result | Promise<Result>): Promise<Result> {
    try {
      const context = currentContext()
      const parent = context?.scope === this.#scope ? context : this.#scope
      const result = await runWithin(parent, held, held, () => fn(held.hold))
      const lost = held.hold.lostError
      if (lost !== undefined) throw lost
      return result
    } finally {
      const releasing = this.#unuse(held)
      if (releasing !== undefined && held.hold.isReleasedByScope) await releasing
    }
  }

  handle(held: ScopedHold): AnyLock & ManualRelease {
    return held.handle(() => this.#unuse(held) ?? Promise.resolve())
  }

  #use(held: ScopedHold): void {
    held.users++
    held.tie(this)
  }

  /** A transaction that had to end before it was given back has ended. */
  untied(held: ScopedHold): void {
    void this.#settle(held)
  }

  #unuse(held: ScopedHold): Promise<void> | undefined {
    held.users--
    return this.#settle(held)
  }

  /** Gives it back once nobody uses it and no transaction has to end first; until then it can be entered again. */
  #settle(held: ScopedHold): Promise<void> | undefined {
    if (held.users > 0) return undefined
    if (held.isTied) {
      held.tellIdle()
      return undefined
    }
    if (!remove(this.#holds, held)) return undefined
    held.tellIdle()
    this.#forgetIfIdle()
    return held.hold.release()
  }

  #enterable(keys: readonly string[], config: LockConfig): ScopedHold | undefined {
    for (const held of this.#holds ?? []) {
      if (!keys.some((key) => held.covers(key))) continue
      if (config.reentrant || held.isAround(currentContext()) || held.sharesTransaction) return held
    }
    return undefined
  }

  /** Whether its function ends within so many milliseconds. */
  #idle(held: ScopedHold, ms: number, signal: AbortSignal | undefined): Promise<boolean> {
    return new Promise((resolve, reject) => {
      const abort = () => waiting.cancel(signal?.reason)
      const over = (outcome: () => void) => {
        clearTimeout(timer)
        signal?.removeEventListener('abort', abort)
        this.doneWaiting(waiting)
        outcome()
      }
      const waiting = { cancel: (reason: unknown) => over(() => reject(reason)) }
      const timer = outsideEveryScope(() => setTimeout(() => over(() => resolve(false)), ms))
      signal?.addEventListener('abort', abort)
      held.whenIdle(() => over(() => resolve(true)))
      this.startWaiting(waiting)
      if (signal?.aborted) abort()
    })
  }

  #forgetIfIdle(): void {
    if (this.#holds?.length || this.#waiting?.length || this.#scope.locks !== this) return
    this.#scope.locks = undefined
  }
}

function remove<Item>(items: Item[] | undefined, item: Item): boolean {
  const place = items?.indexOf(item) ?? -1
  if (place >= 0) items?.splice(place, 1)
  return place >= 0
}
