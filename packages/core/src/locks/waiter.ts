import type { Alarms, Sleeper } from './alarms.ts'
import type { LockName } from './lock-name.ts'
import type { LockRequest } from './store.ts'

/** What a waiter is told. */
export type Tidings =
  /** The lock was handed to it, at this moment of the server's clock, in µs. */
  | { readonly tag: 'yours'; readonly atUs: number; readonly fence: number }
  /** What was said may have gone unheard: ask again. */
  | { readonly tag: 'ask-again' }
  | { readonly tag: 'timeout' }
  | { readonly tag: 'abort' }

const ASK_AGAIN: Tidings = { tag: 'ask-again' }
const TIMEOUT: Tidings = { tag: 'timeout' }
const ABORT: Tidings = { tag: 'abort' }

type Hear = (tidings: Tidings) => void

// Thousands may wait, so a waiter makes no closure for its promise.
let keptHear: Hear
function keep(resolve: Hear): void {
  keptHear = resolve
}

/** Somebody who waits for a lock of this name. Tidings may come before it listens. */
export class Waiter implements Sleeper {
  alarmDue = 0
  alarmAt = 0
  readonly token: string
  readonly name: LockName
  /** What messages call it. */
  readonly wait: string
  readonly #request: LockRequest
  readonly #alarms: Alarms
  #early: Tidings | undefined
  #hear: Hear | undefined

  constructor(token: string, name: LockName, wait: string, request: LockRequest, alarms: Alarms) {
    this.#alarms = alarms
    this.token = token
    this.name = name
    this.wait = wait
    this.#request = request
    request.onCancel = this
  }

  tell(tidings: Tidings): void {
    const hear = this.#hear
    if (hear !== undefined) {
      this.#hear = undefined
      this.#alarms.clear(this)
      hear(tidings)
    }
    // To have it is better news than to be asked to ask for it.
    else if (this.#early?.tag !== 'yours') this.#early = tidings
  }

  askAgain(): void {
    this.tell(ASK_AGAIN)
  }

  wake(): void {
    if (this.#hear !== undefined) this.tell(TIMEOUT)
  }

  cancelled(): void {
    if (this.#hear !== undefined) this.tell(ABORT)
  }

  /** The next tidings, at the latest after `ms` milliseconds. */
  next(ms: number): Promise<Tidings> {
    const early = this.#early
    if (early !== undefined) {
      this.#early = undefined
      return Promise.resolve(early)
    }
    if (this.#request.isCancelled) return Promise.resolve(ABORT)
    const heard = new Promise<Tidings>(keep)
    this.#hear = keptHear
    this.#alarms.set(this, ms)
    return heard
  }

  /** It asks (again) from here on: what was said before is answered by that. */
  forget(): void {
    if (this.#early?.tag === 'ask-again') this.#early = undefined
  }
}
