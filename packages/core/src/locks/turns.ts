import { outsideEveryScope } from '../scope/current.ts'

interface Waiting {
  readonly go: () => void
}

/** So many may go at a time, first come first served. */
export class Turns {
  readonly #limit: number
  #taken = 0
  readonly #queue: Waiting[] = []

  constructor(limit: number) {
    this.#limit = limit
  }

  get isIdle(): boolean {
    return this.#taken === 0
  }

  /** Resolves to whether it was one's turn within so many milliseconds; then `done` has to be called. */
  async take(ms: number, signal: AbortSignal | undefined): Promise<boolean> {
    if (this.#taken < this.#limit) {
      this.#taken++
      return true
    }
    if (ms <= 0) return false
    return new Promise((resolve, reject) => {
      const over = (settle: () => void) => {
        clearTimeout(timer)
        signal?.removeEventListener('abort', abort)
        const place = this.#queue.indexOf(waiting)
        if (place >= 0) this.#queue.splice(place, 1)
        settle()
      }
      const abort = () => over(() => reject(signal?.reason))
      const waiting: Waiting = { go: () => over(() => resolve(true)) }
      const timer = outsideEveryScope(() => setTimeout(() => over(() => resolve(false)), ms))
      signal?.addEventListener('abort', abort)
      this.#queue.push(waiting)
      if (signal?.aborted) abort()
    })
  }

  done(): void {
    const next = this.#queue.shift()
    if (next === undefined) this.#taken--
    else next.go()
  }
}
