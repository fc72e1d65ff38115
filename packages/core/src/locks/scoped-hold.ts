import { InvalidOptionError } from '../errors.ts'
import { type Context, currentContext, findInContext } from '../scope/current.ts'
import type { AnyLock, ManualRelease, TransactionBond } from '../scope/locker.ts'
import type { Scope } from '../scope/scope.ts'
import type { Hold } from './hold.ts'
import type { LockConfig } from './options.ts'

/** A lock of one scope, with all who use it: functions, handles, and transactions that have to end first. */
export class ScopedHold {
  readonly hold: Hold
  readonly mode: 'exclusive' | 'shared'
  /** Taken by hand: all code of the scope counts as under it. */
  readonly isManual: boolean
  readonly #scope: Scope
  /** Functions and handles. */
  users = 0
  #transactions: Set<object> | undefined
  #onIdle: (() => void)[] | undefined

  constructor(scope: Scope, hold: Hold, mode: 'exclusive' | 'shared', isManual: boolean) {
    this.#scope = scope
    this.hold = hold
    this.mode = mode
    this.isManual = isManual
  }

  /** Whether a transaction has to end before it is given back. */
  get isTied(): boolean {
    return this.#transactions !== undefined && this.#transactions.size > 0
  }

  covers(key: string): boolean {
    return this.hold.keys.includes(key)
  }

  /** Whether this is code under it. */
  isAround(context: Context | undefined): boolean {
    return findInContext(context, this) === this
  }

  /** Whether the code that runs now is in a transaction that has to end first. */
  get sharesTransaction(): boolean {
    const transactions = this.#transactions
    if (transactions === undefined || transactions.size === 0) return false
    return this.#scope.transactionals.some((resource) => {
      const around = resource.transactionAround?.(this.#scope)
      return around !== undefined && transactions.has(around)
    })
  }

  /**
   * Ties it to the transactions around the code that runs now.
   *
   * @param locks told when one of them has ended.
   */
  tie(locks: { untied(held: ScopedHold): void }): void {
    const context = currentContext()
    // Transactions are links of the context: a bare scope is in none.
    if (context?.scope !== this.#scope || context.parent === undefined) return
    for (const resource of this.#scope.transactionals) {
      const around = resource.transactionAround?.(this.#scope)
      if (around === undefined || this.#transactions?.has(around)) continue
      this.#transactions ??= new Set()
      this.#transactions.add(around)
      const bond: TransactionBond = {
        obstacle: () => this.hold.lostError,
        ended: () => {
          this.#transactions?.delete(around)
          locks.untied(this)
        },
      }
      resource.tie?.(this.#scope, bond)
    }
  }

  /** @throws LockLostError, or InvalidOptionError where it is not what was asked for. */
  checkFit(keys: readonly string[], config: LockConfig): void {
    const lost = this.hold.lostError
    if (lost !== undefined) throw lost
    if (!keys.every((key) => this.covers(key))) {
      throw new InvalidOptionError(
        'lock.keys',
        keys,
        'held all or not at all by the code that asks: take them together',
      )
    }
    if (config.mode === 'exclusive' && config.limit === undefined && this.mode === 'shared') {
      throw new InvalidOptionError(
        'lock.mode',
        config.mode,
        "'shared' inside a shared lock of the same key: two readers who both wait to be the writer wait for ever",
      )
    }
  }

  /** Calls `resume` when nobody uses it. */
  whenIdle(resume: () => void): void {
    this.#onIdle ??= []
    this.#onIdle.push(resume)
  }

  tellIdle(): void {
    for (const resume of this.#onIdle?.splice(0) ?? []) resume()
  }

  /** @param release called once. */
  handle(release: () => Promise<void>): AnyLock & ManualRelease {
    let released: Promise<void> | undefined
    const once = () => (released ??= release())
    const { hold } = this
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
      release: once,
      [Symbol.asyncDispose]: once,
    }
  }
}
