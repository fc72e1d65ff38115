import type { Writable } from 'node:stream'

/**
 * Holds back what is written to connections until the end of the turn of the event loop: then it goes out, in one write
 * for each of them and one after the other, so that the server finds all of it at once and answers all of it at once.
 */
export class WriteTurn {
  readonly #held: Writable[] = []

  /** To be called before something is written to `stream`. */
  hold(stream: Writable): void {
    if (this.#held.includes(stream)) return
    if (this.#held.length === 0) setImmediate(this.#end)
    stream.cork()
    this.#held.push(stream)
  }

  readonly #end = (): void => {
    for (const stream of this.#held.splice(0)) stream.uncork()
  }
}
