import { outsideEveryScope } from '../scope/current.ts'

/** How finely the time of a wait is cut. */
const STEPS = 8

type Resolve = (value: never) => void
type Reject = (error: unknown) => void

/** A reply that is waited for. */
class PendingReply {
  settled = false
  /** The step in which it began to wait. */
  since = 0
  older: PendingReply | undefined
  newer: PendingReply | undefined
  readonly resolve: Resolve
  readonly reject: Reject
  readonly late: () => unknown
  readonly failed: (error: unknown) => unknown

  constructor(resolve: Resolve, reject: Reject, late: () => unknown, failed: (error: unknown) => unknown) {
    this.resolve = resolve
    this.reject = reject
    this.late = late
    this.failed = failed
  }
}

// Every command makes a promise here, so it makes no closure for it.
let keptResolve: Resolve
let keptReject: Reject
function keep(resolve: Resolve, reject: Reject): void {
  keptResolve = resolve
  keptReject = reject
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

  /**
   * Settles as `work` does, or rejects when that takes too long.
   *
   * @param late gives the error then.
   * @param failed what a failure of `work` is reported as.
   */
  bound<Result>(work: PromiseLike<Result>, late: () => unknown, failed: (error: unknown) => unknown): Promise<Result> {
    const promise = new Promise<Result>(keep as never)
    const pending = new PendingReply(keptResolve, keptReject, late, failed)
    this.#add(pending)
    work.then(
      (result) => {
        if (pending.settled) return
        this.#remove(pending)
        pending.resolve(result as never)
      },
      (error: unknown) => {
        if (pending.settled) return
        this.#remove(pending)
        pending.reject(pending.failed(error))
      },
    )
    return promise
  }

  /** Bounds what can only begin once `ready` resolves: when it is late by then, it is not begun. */
  boundAfter<Result>(
    ready: Promise<void>,
    begin: () => PromiseLike<Result>,
    late: () => unknown,
    failed: (error: unknown) => unknown,
  ): Promise<Result> {
    let isLate = false
    const work = ready.then(() => (isLate ? new Promise<never>(() => {}) : begin()))
    return this.bound(
      work,
      () => {
        isLate = true
        return late()
      },
      failed,
    )
  }

  #add(pending: PendingReply): void {
    pending.since = this.#step
    pending.older = this.#newest
    if (this.#newest === undefined) this.#oldest = pending
    else this.#newest.newer = pending
    this.#newest = pending
    this.#timer ??= outsideEveryScope(() => setInterval(() => this.#tick(), Math.ceil(this.timeoutMs / STEPS)).unref())
  }

  /** Once for each that was added, whether it settled or was late. */
  #remove(pending: PendingReply): void {
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
      this.#remove(first)
      first.reject(first.late())
    }
    if (this.#oldest !== undefined) return
    clearInterval(this.#timer)
    this.#timer = undefined
  }
}
