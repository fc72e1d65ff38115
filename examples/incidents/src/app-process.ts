import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import type { Addresses } from './incident.ts'

/** An application in a process of its own. It ends when this process does: their channel closes then. */
export class AppProcess {
  readonly #process: ChildProcess
  readonly url: string

  private constructor(process: ChildProcess, url: string) {
    this.#process = process
    this.url = url
  }

  /** @param module the file that exports `open`. */
  static async start(module: URL, addresses: Addresses): Promise<AppProcess> {
    const child = fork(fileURLToPath(new URL('app-main.ts', import.meta.url)), [module.href], {
      execArgv: ['--expose-gc', '--import', import.meta.resolve('tsx')],
      env: { ...process.env, NODE_ENV: 'production', ADDRESSES: JSON.stringify(addresses) },
      stdio: ['ignore', 'ignore', process.env.DEBUG ? 'inherit' : 'ignore', 'ipc'],
    })
    const ended = once(child, 'exit').then(([code, signal]) => {
      throw new Error(`${module.pathname} ended with ${code ?? signal}; DEBUG=1 shows why`)
    })
    ended.catch(() => {})
    const [{ url }] = (await Promise.race([once(child, 'message'), ended])) as [{ url: string }]
    return new AppProcess(child, url)
  }

  /** Its resident memory after a collection, in MiB. */
  async memoryMiB(): Promise<number> {
    this.#process.send('memory')
    const [{ rssMiB }] = (await once(this.#process, 'message')) as [{ rssMiB: number }]
    return rssMiB
  }

  async kill(): Promise<void> {
    if (this.#process.exitCode !== null || this.#process.signalCode !== null) return
    this.#process.kill('SIGKILL')
    await once(this.#process, 'exit')
  }
}
