import type { Command } from 'ioredis'

/** What became of MULTI, some commands and EXEC. */
export type Executed =
  /** The replies in the order of the commands, an error where one failed. */
  | { readonly tag: 'done'; readonly replies: readonly unknown[] }
  /** A key that was watched had changed: nothing was done. */
  | { readonly tag: 'conflict' }
  /** Redis refused to queue one of them, so nothing was done. */
  | { readonly tag: 'refused'; readonly index: number; readonly error: Error }

type Writable = string | Buffer

/**
 * MULTI, some commands and EXEC, sent in one piece. In ioredis' queue of awaited replies it stands once for each of them,
 * which costs less than a command and a promise for every QUEUED.
 */
export class Execution {
  // What ioredis asks of what stands in its queue.
  readonly name = 'exec'
  readonly args: readonly string[] = []
  readonly inTransaction = true
  readonly isTraced = true
  readonly promise: Promise<Executed>
  readonly #commands: readonly Command[]
  #settle: { resolve(executed: Executed): void; reject(error: unknown): void } | undefined
  #hasContext = false
  #answers = 0
  #refused: { readonly index: number; readonly error: Error } | undefined

  constructor(commands: readonly Command[]) {
    this.#commands = commands
    this.promise = new Promise((resolve, reject) => {
      this.#settle = { resolve, reject }
    })
  }

  /** How many replies will come. */
  get awaited(): number {
    return this.#commands.length + 2
  }

  setReplyContext(context: Parameters<Command['setReplyContext']>[0]): void {
    if (this.#hasContext) return
    this.#hasContext = true
    for (const command of this.#commands) command.setReplyContext(context)
  }

  /** Called by ioredis for each that stands in the queue: it is `text` that is written, once. */
  toWritable(): string {
    return ''
  }

  /** All of it, as it goes over the wire. */
  get text(): Writable {
    const parts: Writable[] = ['*1\r\n$5\r\nMULTI\r\n']
    // A script is sent in full, as to a connection that has seen none: see scoped-pipeline.
    for (const command of this.#commands) parts.push(command.toWritable({}))
    parts.push('*1\r\n$4\r\nEXEC\r\n')
    if (parts.every((part) => typeof part === 'string')) return parts.join('')
    return Buffer.concat(parts.map((part) => (typeof part === 'string' ? Buffer.from(part) : part)))
  }

  /** Called by ioredis with each reply in turn. */
  resolve(reply: unknown): void {
    if (++this.#answers < this.awaited) return
    if (reply === null) this.#settle?.resolve({ tag: 'conflict' })
    else this.#settle?.resolve({ tag: 'done', replies: this.#decoded(reply as unknown[]) })
  }

  /** Called by ioredis with each error in turn: one of Redis, or the loss of the connection for all that were awaited. */
  reject(error: Error): void {
    const index = this.#answers++ - 1 // MULTI itself is -1
    if (this.#answers < this.awaited) {
      this.#refused ??= { index, error }
    } else if (this.#refused !== undefined && this.#refused.index >= 0 && error.message.startsWith('EXECABORT')) {
      this.#settle?.resolve({ tag: 'refused', ...this.#refused })
    } else {
      this.#settle?.reject(this.#refused?.error ?? error)
    }
  }

  #decoded(replies: readonly unknown[]): unknown[] {
    return replies.map((reply, index) => {
      if (reply instanceof Error) return reply
      try {
        return this.#commands[index]?.transformReply(reply as Buffer)
      } catch (error) {
        return error
      }
    })
  }
}
