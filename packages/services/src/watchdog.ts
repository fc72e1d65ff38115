import { type ChildProcess, spawn } from 'node:child_process'
import type { Socket } from 'node:net'
import { fileURLToPath } from 'node:url'

/** What must not outlive this process: a server and the folder it works in. */
export interface Guard {
  /** The server that runs now; `undefined` when none does. */
  process(pid: number | undefined, signal?: NodeJS.Signals): void
  release(): void
}

let child: ChildProcess | undefined
let lastId = 0

/**
 * Hands a folder, and later a process, to a small child process that outlives this one: it stops and removes them as
 * soon as this process is gone. So there are no signal handlers here, and SIGKILL is covered like a normal exit.
 */
export function guard(folder: string | undefined): Guard {
  lastId += 1
  const id = lastId
  const tell = (message: object) => pipe().write(`${JSON.stringify({ id, folder, ...message })}\n`)
  tell({})
  return {
    process(pid, signal = 'SIGTERM') {
      tell({ pid, signal })
    },
    release() {
      tell({ released: true })
    },
  }
}

function pipe(): Socket {
  child ??= startWatchdog()
  return child.stdin as Socket
}

function startWatchdog(): ChildProcess {
  const script = fileURLToPath(new URL('./watchdog-child.mjs', import.meta.url))
  // Detached: a Ctrl-C in the terminal goes to the whole process group, and the watchdog has to survive it.
  const started = spawn(process.execPath, [script], {
    detached: true,
    stdio: ['pipe', 'ignore', 'ignore'],
    env: {},
    cwd: '/',
  })
  started.unref()
  const stdin = started.stdin as Socket
  stdin.unref()
  stdin.on('error', () => {})
  return started
}
