import { spawn } from 'node:child_process'
import { closeSync, openSync, readFileSync } from 'node:fs'
import { within } from './deadline.ts'
import type { Guard } from './watchdog.ts'

export interface Launch {
  binary: string
  args: string[]
  /** Working folder. */
  folder: string
  logFile: string
  /** Asks the server to stop at once, dropping its clients. */
  stopSignal: NodeJS.Signals
  runAs?: { uid: number; gid: number } | undefined
  guard: Guard
}

/** One run of a server. It never keeps this process alive, and the watchdog stops it when this process is gone. */
export class ServerProcess {
  readonly pid: number | undefined
  /** Settles when the process has exited or could not be started; never rejects. */
  readonly exited: Promise<string>
  running = true
  readonly #stopSignal: NodeJS.Signals
  readonly #logFile: string

  constructor({ binary, args, folder, logFile, stopSignal, runAs, guard }: Launch) {
    const log = openSync(logFile, 'w')
    // Detached: a Ctrl-C must reach the application first, which may still want to use the server while it shuts down.
    const child = spawn(binary, args, {
      ...runAs,
      cwd: folder,
      env: { PATH: process.env.PATH, LC_ALL: 'C', TZ: 'UTC' },
      detached: true,
      stdio: ['ignore', log, log],
    })
    closeSync(log)
    child.unref()
    this.pid = child.pid
    this.#stopSignal = stopSignal
    this.#logFile = logFile
    if (child.pid) guard.process(child.pid, stopSignal)
    this.exited = new Promise((resolve) => {
      const settle = (reason: string) => {
        this.running = false
        guard.process(undefined)
        resolve(reason)
      }
      child.once('error', (error) => settle(error.message))
      child.once('exit', (code, signal) => settle(signal ? `was ended by ${signal}` : `exited with code ${code}`))
    })
  }

  get log(): string {
    return readFileSync(this.#logFile, 'utf8')
  }

  signal(signal: NodeJS.Signals): void {
    if (this.running && this.pid) process.kill(this.pid, signal)
  }

  /** Resolves when the process is gone; a server that does not stop in time is killed. */
  async stop(withinMs = 10_000): Promise<void> {
    if (!this.running) return
    this.signal('SIGCONT')
    this.signal(this.#stopSignal)
    await within(this.exited, withinMs, () => this.signal('SIGKILL'))
    await this.exited
  }
}
