import { InvalidOptionError, OverloadedError } from '../errors.ts'
import { OptionReader } from '../options.ts'
import { outsideEveryScope } from '../scope/current.ts'
import { stackless } from './stackless.ts'

/** Who goes first, and who is let go first. */
export const PRIORITIES = ['critical', 'normal', 'background'] as const
export type Priority = (typeof PRIORITIES)[number]

/** How much of something may be under way at once. */
export interface ConcurrencyOptions {
  /** How many requests at once. */
  readonly max: number
  /** How many more may wait for their turn. Default 0. */
  readonly maxQueued?: number
  /** How long they may wait, in milliseconds. Default 1,000. */
  readonly maxWaitMs?: number
  /** Shared with every route that names the same group, which must say the same numbers. */
  readonly group?: string
}

interface Waiter {
  readonly what: string
  readonly timer: NodeJS.Timeout
  grant(): void
  refuse(error: unknown): void
}

/** A place in a queue. */
export interface Turn {
  readonly granted: Promise<void>
  /** Gives it up, for this reason. */
  leave(reason: unknown): void
}

// How much the newest request counts in the average of how long one takes.
const SMOOTHING = 0.1

/** At most so many at once; a bounded number waits for a bounded time, the most important first. */
export class ConcurrencyLimit {
  readonly max: number
  readonly maxQueued: number
  readonly maxWaitMs: number
  readonly #queues: { readonly [Each in Priority]: Waiter[] } = { critical: [], normal: [], background: [] }
  #active = 0
  #queued = 0
  #averageMs = 0

  /** @throws InvalidOptionError naming the option that is wrong. */
  constructor(options: ConcurrencyOptions, prefix: string) {
    const read = new OptionReader(prefix, options).onlyKnown(['max', 'maxQueued', 'maxWaitMs', 'group'])
    this.max = read.integer('max', 0, { min: 1 })
    if (this.max === 0) throw new InvalidOptionError(`${prefix}.max`, undefined, 'an integer of at least 1')
    this.maxQueued = read.integer('maxQueued', 0, { min: 0 })
    this.maxWaitMs = read.milliseconds('maxWaitMs', 1_000, { min: 1 })
    read.string('group', undefined)
  }

  get active(): number {
    return this.#active
  }

  get queued(): number {
    return this.#queued
  }

  /** How long who comes last would wait, as far as can be told, in milliseconds. */
  get expectedWaitMs(): number {
    return this.#active < this.max ? 0 : ((this.#queued + 1) * this.#averageMs) / this.max
  }

  /**
   * A place: at once, which is undefined, or a turn in the queue. Whoever has it gives it back with `leave`.
   *
   * @param what what is refused, for the message.
   * @param withinMs how long it can wait at most for a reason of its own, its deadline.
   * @throws OverloadedError where no more may wait, or the wait would be too long; also later, by its turn.
   */
  enter(what: string, priority: Priority, withinMs: number): Turn | undefined {
    if (this.#active < this.max) {
      this.#active++
      return undefined
    }
    const maxWaitMs = Math.min(this.maxWaitMs, withinMs)
    if (this.expectedWaitMs > maxWaitMs && priority !== 'critical') throw this.#refusal(what)
    if (this.#queued >= this.maxQueued && !this.#makeRoom(priority)) throw this.#refusal(what)
    return this.#queueUp(what, priority, maxWaitMs)
  }

  /** @param heldMs how long the place was held. */
  leave(heldMs: number): void {
    this.#averageMs += (heldMs - this.#averageMs) * (this.#averageMs === 0 ? 1 : SMOOTHING)
    const { critical, normal, background } = this.#queues
    const next = critical.shift() ?? normal.shift() ?? background.shift()
    if (next === undefined) {
      this.#active--
      return
    }
    this.#queued--
    clearTimeout(next.timer)
    next.grant()
  }

  #queueUp(what: string, priority: Priority, maxWaitMs: number): Turn {
    const queue = this.#queues[priority]
    let leave: (reason: unknown) => void = () => {}
    const granted = new Promise<void>((grant, refuse) => {
      leave = (reason) => {
        const index = queue.indexOf(waiter)
        if (index < 0) return
        queue.splice(index, 1)
        this.#queued--
        clearTimeout(waiter.timer)
        refuse(reason)
      }
      const timer = outsideEveryScope(() => setTimeout(() => leave(this.#refusal(what)), maxWaitMs))
      const waiter: Waiter = { what, timer, grant, refuse }
      queue.push(waiter)
      this.#queued++
    })
    return { granted, leave: (reason) => leave(reason) }
  }

  /** Somebody who came last and matters less makes room for who matters more. */
  #makeRoom(priority: Priority): boolean {
    for (const lesser of ['background', 'normal'] as const) {
      if (lesser === priority) return false
      const last = this.#queues[lesser].pop()
      if (last === undefined) continue
      this.#queued--
      clearTimeout(last.timer)
      last.refuse(this.#refusal(last.what))
      return true
    }
    return false
  }

  #refusal(what: string): OverloadedError {
    const retryAfterMs = Math.max(1, Math.ceil(((this.#queued + 1) * this.#averageMs) / this.max))
    return stackless(() => new OverloadedError({ reason: 'concurrency', what, retryAfterMs }))
  }
}
