import type { Command } from 'ioredis'
import { outsideEveryScope } from '../scope/current.ts'

/** How finely the time of a wait is cut. */
const STEPS = 8

type Resolve = (value: never) => void
type Reject = (error: unknown) => void

/** What is told of a reply that does not come as it should. */
export interface ReplyGuard {
  /** It is late: gives the error. */
  late(): unknown
  /** What a failure is reported as. */
  failed(error: unknown): unknown
}

/** A reply that is waited for. */
class PendingReply {
  settled = false
  /** The step in which it began to wait. */
  since = 0
  older: PendingReply | undefined
  newer: PendingReply | undefined
  readonly resolve: Resolve
  readonly reject: Reject
  readonly guard: ReplyGuard

  constructor(resolve: Resolve, reject: Reject, guard: ReplyGuard) {
    this.resolve = resolve
    this.reject = reject
    this.guard = guard
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

  /** Settles as `work` does, or rejects when that takes too long. */
  bound<Result>(work: PromiseLike<Result>, guard: ReplyGuard): Promise<Result> {
    const promise = new Promise<Result>(keep as never)
    const pending = new PendingReply(keptResolve, keptReject, guard)
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
        pending.reject(pending.guard.failed(error))
      },
    )
    return promise
  }

  /** The same for a command that is not sent yet: its own promise settles so, which saves two others. */
  boundCommand(command: Command, guard: ReplyGuard): Promise<unknown> {
    const { resolve, reject } = command
    const pending = new PendingReply(resolve as Resolve, reject as Reject, guard)
    this.#add(pending)
    command.resolve = (reply: unknown) => {
      if (pending.settled) return
      this.#remove(pending)
      command.reject = reject // which it calls when it can't make anything of the reply
      resolve(reply)
    }
    command.reject = (error) => {
      if (pending.settled) return
      this.#remove(pending)
      reject(guard.failed(error) as Error)
    }
    return command.promise
  }

  /** Bounds what can only begin once `ready` resolves: when it is late by then, it is not begun. */
  boundAfter<Result>(ready: Promise<void>, begin: () => PromiseLike<Result>, guard: ReplyGuard): Promise<Result> {
    let isLate = false
    const work = ready.then(() => (isLate ? new Promise<never>(() => {}) : begin()))
    return this.bound(work, {
      late() {
        isLate = true
        return guard.late()
      },
      failed: (error) => guard.failed(error),
    })
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
      first.reject(first.guard.late())
    }
    if (this.#oldest !== undefined) return
    clearInterval(this.#timer)
    this.#timer = undefined
  }
}
