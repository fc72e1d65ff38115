/** What one request of a row on jobs does so often, so that little of the time is the request's own. */
export const JOBS = 64

export const redisUrl = process.env.REDIS_URL ?? ''

/** Tells when so many have come. */
export class Countdown {
  #left = 0
  #done: (() => void) | undefined

  from(count: number): Promise<void> {
    this.#left = count
    return new Promise((resolve) => (this.#done = resolve))
  }

  one(): void {
    if (--this.#left === 0) this.#done?.()
  }
}
