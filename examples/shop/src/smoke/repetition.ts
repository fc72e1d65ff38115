import { setTimeout as sleep } from 'node:timers/promises'

/** Runs `work` every `everyMs` milliseconds, one run after the other, until `stop` is called. */
export class Repetition {
  readonly #stopping = new AbortController()
  readonly #stopped: Promise<void>

  constructor(everyMs: number, work: () => Promise<void>) {
    this.#stopped = this.#repeat(everyMs, work)
    this.#stopped.catch(() => {})
  }

  /** Waits for the run that is under way; rejects with what a run threw. */
  stop(): Promise<void> {
    this.#stopping.abort()
    return this.#stopped
  }

  async #repeat(everyMs: number, work: () => Promise<void>): Promise<void> {
    const { signal } = this.#stopping
    for (let next = performance.now() + everyMs; ; next = Math.max(performance.now(), next + everyMs)) {
      await sleep(Math.max(0, next - performance.now()), undefined, { signal }).catch(() => {})
      if (signal.aborted) return
      await work()
    }
  }
}
