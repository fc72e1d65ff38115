import { type ChildProcess, spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { expect, onTestFinished } from 'vitest'

const root = fileURLToPath(new URL('..', import.meta.url))

/** What `npm start -- …` runs. */
export class Command {
  stdout = ''
  stderr = ''
  readonly exited: Promise<number | null>
  readonly #process: ChildProcess

  constructor(...args: string[]) {
    this.#process = spawn(process.execPath, ['--import', 'tsx', 'src/start.ts', ...args], { cwd: root })
    this.#process.stdout?.setEncoding('utf8').on('data', (text: string) => (this.stdout += text))
    this.#process.stderr?.setEncoding('utf8').on('data', (text: string) => (this.stderr += text))
    this.exited = new Promise((resolve) => this.#process.once('close', resolve))
    onTestFinished(() => void this.#process.kill('SIGKILL'))
  }

  signal(signal: NodeJS.Signals): void {
    this.#process.kill(signal)
  }

  /** Resolves to the address of the shop once it is open. */
  async opened(): Promise<string> {
    const address = () => /The shop is open: (http:\S+)\/products/.exec(this.stdout)?.[1]
    await expect.poll(address, { timeout: 30_000, message: this.stderr }).toBeDefined()
    return address() ?? ''
  }
}
