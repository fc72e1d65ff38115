import { outsideEveryScope } from './current.ts'

/** Who waits. */
export interface Waiting {
  /** How often it waits; kept by the queue. */
  waits: number
}

interface Place<Item, Who> {
  readonly who: Who
  readonly since: number
  grant(item: Item): void
  refuse(error: unknown): void
}

/**
 * Those who wait for one of few things, all equally long at most, in the order of arrival.
 *
 * Whoever had one before goes ahead of newcomers, so that work that began is finished.
 */
export class WaitQueue<Item, Who extends Waiting> {
  readonly #timeoutMs: number
  readonly #timedOut: (who: Who, waitedMs: number) => Error
  readonly #returning: Place<Item, Who>[] = []
  readonly #newcomers: Place<Item, Who>[] = []
  #expiry: NodeJS.Timeout | undefined
  #longestWaitMs = 0
  #servedAt = 0
  /** The average time between two that were served one after the other. */
  #servedEveryMs = 0

  /** @param timedOut makes the error for whoever has waited `timeoutMs` in vain. */
  constructor(timeoutMs: number, timedOut: (who: Who, waitedMs: number) => Error) {
    this.#timeoutMs = timeoutMs
    this.#timedOut = timedOut
  }

  get size(): number {
    return this.#returning.length + this.#newcomers.length
  }

  /** The longest that anybody waited who was served, in milliseconds. */
  get longestWaitMs(): number {
    return this.#longestWaitMs
  }

  /** How long who comes now would wait, by how fast the others are served, in milliseconds; 0 where nobody waits. */
  get expectedWaitMs(): number {
    return this.size === 0 ? 0 : (this.size + 1) * this.#servedEveryMs
  }

  /** Resolves when it is the turn of `who`; rejects with the error of `timedOut`, or of who refuses it. */
  wait(who: Who, hadOneBefore: boolean): Promise<Item> {
    return new Promise((grant, refuse) => {
      const queue = hadOneBefore ? this.#returning : this.#newcomers
      queue.push({ who, since: performance.now(), grant, refuse })
      who.waits++
      this.#expiry ??= this.#expireIn(this.#timeoutMs)
    })
  }

  /** Hands an item to whoever is next; says whether anybody was. */
  serve(item: Item): boolean {
    const place = this.#returning.shift() ?? this.#newcomers.shift()
    if (place === undefined) return false
    const now = performance.now()
    this.#longestWaitMs = Math.max(this.#longestWaitMs, now - place.since)
    const sinceMs = now - Math.max(this.#servedAt, place.since)
    this.#servedEveryMs += (sinceMs - this.#servedEveryMs) * (this.#servedEveryMs === 0 ? 1 : 0.1)
    this.#servedAt = now
    place.who.waits--
    place.grant(item)
    return true
  }

  /** How fast the others were served says nothing any more, least of all after an outage. */
  forgetPace(): void {
    this.#servedAt = performance.now()
    this.#servedEveryMs = 0
  }

  refuse(who: Who, error: unknown): void {
    for (const queue of [this.#returning, this.#newcomers]) {
      for (const place of queue.filter((each) => each.who === who)) {
        queue.splice(queue.indexOf(place), 1)
        refusePlace(place, error)
      }
    }
  }

  refuseAll(error: unknown): void {
    clearTimeout(this.#expiry)
    this.#expiry = undefined
    for (const place of [...this.#returning.splice(0), ...this.#newcomers.splice(0)]) refusePlace(place, error)
  }

  // One timer for all: they wait equally long, in the order of arrival.
  #expireIn(delayMs: number): NodeJS.Timeout {
    return outsideEveryScope(() => setTimeout(() => this.#expire(), delayMs))
  }

  #expire(): void {
    const now = performance.now()
    const due = now - this.#timeoutMs + 1
    for (const queue of [this.#returning, this.#newcomers]) {
      for (let first = queue[0]; first !== undefined && first.since <= due; first = queue[0]) {
        queue.shift()
        refusePlace(first, this.#timedOut(first.who, now - first.since))
      }
    }
    const next = Math.min(this.#returning[0]?.since ?? Infinity, this.#newcomers[0]?.since ?? Infinity)
    this.#expiry = next === Infinity ? undefined : this.#expireIn(Math.max(1, next - due + 1))
  }
}

function refusePlace<Who extends Waiting>(place: Place<never, Who>, error: unknown): void {
  place.who.waits--
  place.refuse(error)
}
