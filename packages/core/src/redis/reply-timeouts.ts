import { outsideEveryScope } from '../scope/current.ts'

/** How finely the time of a wait is cut. */
const STEPS = 8

/** A reply that is waited for. */
export class PendingReply {
  settled = false
  /** The step in which it began to wait. */
  since = 0
  older: PendingReply | undefined
  newer: PendingReply | undefined
  readonly #expired: () => void

  constructor(expired: () => void) {
    this.#expired = expired
  }

  expire(): void {
    this.#expired()
  }
}

/**
 * Bounds how long replies are waited for, with one timer for all of them: a wait that is over in time costs neither a
 * timer nor a look at the clock. What is late is told within an eighth of the bound.
 */
export class ReplyTimeouts {
  readonly timeoutMs: number
  #oldest: PendingReply | undefined
  #newest: PendingReply | undefined
  #step = 0
  #timer: NodeJS.Timeout | undefined

  constructor(timeoutMs: number) {
    this.timeoutMs = timeoutMs
  }

  add(pending: PendingReply): void {
    pending.since = this.#step
    pending.older = this.#newest
    if (this.#newest === undefined) this.#oldest = pending
    else this.#newest.newer = pending
    this.#newest = pending
    this.#timer ??= outsideEveryScope(() => setInterval(() => this.#tick(), Math.ceil(this.timeoutMs / STEPS)).unref())
  }

  /** Once for each that was added, whether it settled or expired. */
  remove(pending: PendingReply): void {
    pending.settled = true
    const { older, newer } = pending
    if (older === undefined) this.#oldest = newer
    else older.newer = newer
    if (newer === undefined) this.#newest = older
    else newer.older = older
    pending.older = pending.newer = undefined
  }

  #tick(): void {
    this.#step++
    for (let first = this.#oldest; first !== undefined && this.#step - first.since > STEPS; first = this.#oldest) {
      this.remove(first)
      first.expire()
    }
    if (this.#oldest !== undefined) return
    clearInterval(this.#timer)
    this.#timer = undefined
  }

  /** Settles as `work` does, or, when that takes too long, as `expired` says. */
  bound<Result>(work: PromiseLike<Result>, expired: () => unknown): Promise<Result> {
    return new Promise<Result>((resolve, reject) => {
      const pending = new PendingReply(() => reject(expired()))
      this.add(pending)
      work.then(
        (result) => {
          if (pending.settled) return
          this.remove(pending)
          resolve(result)
        },
        (error: unknown) => {
          if (pending.settled) return
          this.remove(pending)
          reject(error)
        },
      )
    })
  }
}
