import { type ChildProcess, fork } from 'node:child_process'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'

const LAST_LINES = 10

/** A TypeScript program in a process of its own. It ends when this process does: their channel closes then. */
export class Child {
  /** How it ended, once it has. */
  readonly exited: Promise<string>
  readonly #name: string
  readonly #process: ChildProcess
  #ending: string | undefined
  #lines: string[] = []

  constructor(name: string, program: URL, env: NodeJS.ProcessEnv = {}) {
    this.#name = name
    this.#process = fork(fileURLToPath(program), {
      execArgv: ['--import', import.meta.resolve('tsx')],
      env: { ...process.env, ...env },
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
    })
    for (const stream of [this.#process.stdout, this.#process.stderr]) {
      if (stream === null) continue
      createInterface({ input: stream }).on('line', (line) => {
        this.#lines = [...this.#lines.slice(1 - LAST_LINES), line]
      })
    }
    this.exited = new Promise((resolve) => {
      this.#process.once('error', (error) => resolve(error.message))
      this.#process.once('exit', (code, signal) => resolve(signal === null ? `exit code ${code}` : `${signal}`))
    })
    void this.exited.then((ending) => (this.#ending = ending))
  }

  get pid(): number {
    return this.#process.pid ?? 0
  }

  get running(): boolean {
    return this.#ending === undefined
  }

  /** What it printed last. */
  get lastLines(): readonly string[] {
    return this.#lines
  }

  send(message: object): void {
    this.#process.send(message)
  }

  /** The next message from it. Rejects when it ends without one. */
  message<Message>(): Promise<Message> {
    return new Promise((resolve, reject) => {
      this.#process.once('message', (message) => resolve(message as Message))
      void this.exited.then((ending) =>
        reject(new Error(`${this.#name} has ended early: ${ending}\n${this.#lines.join('\n')}`)),
      )
    })
  }

  /** Kills it, and waits until it is gone. */
  kill(): Promise<string> {
    this.#process.kill('SIGKILL')
    return this.exited
  }

  /** Asks it to end, kills it when it does not within `ms`, and resolves to how it ended. */
  async stop(ms = 15_000): Promise<string> {
    if (this.running) this.#process.kill('SIGTERM')
    const late = new AbortController()
    void sleep(ms, undefined, { signal: late.signal }).then(
      () => this.#process.kill('SIGKILL'),
      () => {},
    )
    const ending = await this.exited
    late.abort()
    return ending
  }
}
