import type { ScopeDescription } from '../errors.ts'
import { outsideEveryScope } from '../scope/current.ts'
import type { ExclusiveClient } from './exclusive-client.ts'

/** Who asks for a connection. */
export interface Borrower {
  readonly scope: ScopeDescription
  /** How many it holds. */
  readonly holds: number
}

interface Waiter {
  readonly borrower: Borrower
  readonly since: number
  grant(client: ExclusiveClient): void
  refuse(error: unknown): void
}

/** Those who wait for a connection, in the order of arrival and equally long at most. */
export class WaitingLine {
  readonly #timeoutMs: number
  readonly #late: (borrower: Borrower, waitedMs: number) => unknown
  readonly #waiters: Waiter[] = []
  #expiry: NodeJS.Timeout | undefined

  /**
   * @param timeoutMs how long each waits at most.
   * @param late gives the error for whoever has waited that long.
   */
  constructor(timeoutMs: number, late: (borrower: Borrower, waitedMs: number) => unknown) {
    this.#timeoutMs = timeoutMs
    this.#late = late
  }

  get length(): number {
    return this.#waiters.length
  }

  join(borrower: Borrower): Promise<ExclusiveClient> {
    return new Promise((grant, refuse) => {
      this.#waiters.push({ borrower, since: performance.now(), grant, refuse })
      this.#expiry ??= this.#expireIn(this.#timeoutMs)
    })
  }

  /** Gives it to whoever has waited longest; false where nobody waits. */
  grant(client: ExclusiveClient): boolean {
    const first = this.#waiters.shift()
    first?.grant(client)
    return first !== undefined
  }

  /** Sends away those who wait for `borrower`. */
  refuse(borrower: Borrower, error: unknown): void {
    for (const waiter of this.#waiters.filter((each) => each.borrower === borrower)) {
      this.#waiters.splice(this.#waiters.indexOf(waiter), 1)
      waiter.refuse(error)
    }
  }

  refuseAll(error: unknown): void {
    for (const waiter of this.#waiters.splice(0)) waiter.refuse(error)
    clearTimeout(this.#expiry)
    this.#expiry = undefined
  }

  // One timer for all: whoever came first is late first.
  #expireIn(delayMs: number): NodeJS.Timeout {
    return outsideEveryScope(() => setTimeout(() => this.#expire(), delayMs))
  }

  #expire(): void {
    const now = performance.now()
    const due = now - this.#timeoutMs + 1
    for (let first = this.#waiters[0]; first !== undefined && first.since <= due; first = this.#waiters[0]) {
      this.#waiters.shift()
      first.refuse(this.#late(first.borrower, now - first.since))
    }
    const [next] = this.#waiters
    this.#expiry = next === undefined ? undefined : this.#expireIn(Math.max(1, next.since - due + 1))
  }
}
