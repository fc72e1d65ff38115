import type { Redis } from 'ioredis'
import { outsideEveryScope } from '../../scope/current.ts'

type Stream = Redis['stream']

/**
 * Lets what is sent over a client in one turn of the event loop leave in one write. BullMQ sends a command for each job, and
 * the write is the dearest part of it.
 */
export class OneWrite {
  readonly #client: Redis
  #gathering: Stream | undefined

  constructor(client: Redis) {
    this.#client = client
  }

  /** From now on until the turn is over. */
  gather(): void {
    if (this.#gathering !== undefined || this.#client.status !== 'ready') return
    this.#gathering = this.#client.stream
    this.#gathering.cork()
    outsideEveryScope(() => setImmediate(this.#send))
  }

  readonly #send = (): void => {
    // The one that was held back: the client may have another by now.
    const stream = this.#gathering
    this.#gathering = undefined
    stream?.uncork()
  }
}
