import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'

const compiled = new URL('../.cache/app/dist/', import.meta.url)

/** A compiled program in a process of its own, that answers questions. */
export class Child {
  readonly #process: ChildProcess

  constructor(program: string, options: { readonly env?: Record<string, string>; readonly execArgv?: string[] } = {}) {
    this.#process = fork(fileURLToPath(new URL(program, compiled)), [], {
      env: { ...process.env, NODE_ENV: 'production', ...options.env },
      execArgv: options.execArgv ?? [],
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    })
  }

  /** The next message it sends. */
  async answer<Answer>(): Promise<Answer> {
    const answered = new AbortController()
    const ended = once(this.#process, 'exit', answered).then(([code]) => {
      throw new Error(`a child ended with ${code} before it had answered`)
    })
    ended.catch(() => {}) // once it has answered it may end as it likes
    try {
      const [answer] = await Promise.race([once(this.#process, 'message', answered), ended])
      return answer as Answer
    } finally {
      answered.abort()
    }
  }

  async ask<Answer>(question: string | object): Promise<Answer> {
    const answer = this.answer<Answer>()
    this.#process.send(question)
    return answer
  }

  async stop(): Promise<void> {
    if (this.#process.exitCode !== null) return
    const ended = once(this.#process, 'exit')
    if (this.#process.connected) this.#process.disconnect()
    const timer = setTimeout(() => this.#process.kill('SIGKILL'), 2_000)
    await ended
    clearTimeout(timer)
  }
}
