import { outsideEveryScope } from '../scope/current.ts'
import type { JobRuntime } from '../scope/job.ts'
import type { Relay } from './relay.ts'

/** Lets the relay look for rows that were left behind, again and again: their process died, or Redis was away. */
export class Sweeper {
  readonly #runtime: JobRuntime
  readonly #relay: Relay
  readonly #intervalMs: number
  #timer: NodeJS.Timeout | undefined
  #sweeping: Promise<void> | undefined
  #isRunning = false
  #lastFailure: string | undefined

  constructor(runtime: JobRuntime, relay: Relay, intervalMs: number) {
    this.#runtime = runtime
    this.#relay = relay
    this.#intervalMs = intervalMs
  }

  /** Why the last sweep failed, where it did. */
  get lastFailure(): string | undefined {
    return this.#lastFailure
  }

  start(): void {
    this.#isRunning = true
    this.#next()
  }

  async stop(): Promise<void> {
    this.#isRunning = false
    clearTimeout(this.#timer)
    await this.#sweeping
  }

  #next(): void {
    if (!this.#isRunning) return
    // Spread, so that many processes do not look at the same moment.
    const delayMs = this.#intervalMs * (0.75 + Math.random() / 2)
    this.#timer = outsideEveryScope(() =>
      setTimeout(() => {
        this.#sweeping = this.#sweep()
      }, delayMs),
    )
    this.#timer.unref()
  }

  async #sweep(): Promise<void> {
    try {
      const moved = await this.#relay.sweep()
      this.#lastFailure = undefined
      if (moved > 0) this.#runtime.logger.info({ moved }, 'the sweeper moved jobs that were left in the outbox')
    } catch (error) {
      // Said once for each spell of failures: it tries again for as long as it takes.
      if (this.#lastFailure === undefined) {
        this.#runtime.logger.error({ err: error }, 'the sweep of the outbox failed; it is tried again')
      }
      this.#lastFailure = error instanceof Error ? error.message : String(error)
    }
    this.#next()
  }
}
