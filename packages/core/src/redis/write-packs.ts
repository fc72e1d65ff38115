import type { Writable } from 'node:stream'

/** How many commands go out in one write. */
const PACK = 16

/**
 * Lets what is sent over one connection in a turn of the event loop go out in few writes: the first command at once, so that
 * one alone does not wait, and those after it in packs, so that the server works on one while the next is made.
 */
export class WritePacks {
  #held: Writable | undefined
  #inTurn = 0

  /** To be called before a command is written to `stream`. */
  next(stream: Writable): void {
    const place = this.#inTurn++
    if (place === 0) setImmediate(this.#end)
    else if (place % PACK === 1) {
      this.#held?.uncork()
      stream.cork()
      this.#held = stream
    }
  }

  readonly #end = (): void => {
    this.#held?.uncork()
    this.#held = undefined
    this.#inTurn = 0
  }
}
