// Runs beside the process that started servers and outlives it. Its standard input is a pipe from that process: when the
// pipe closes, however that process ended (exit, crash, Ctrl-C, SIGKILL), what is still guarded is stopped and removed.
import { readFileSync, rmSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'

const STOP_WITHIN_MS = 10_000
const guarded = new Map()

for await (const line of createInterface({ input: process.stdin })) {
  const { id, ...guard } = JSON.parse(line)
  if (guard.released) guarded.delete(id)
  else guarded.set(id, guard)
}
await Promise.all([...guarded.values()].map(cleanUp))

async function cleanUp({ pid, signal, folder }) {
  if (pid) await stop(pid, signal)
  if (folder) rmSync(folder, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 })
}

async function stop(pid, signal) {
  send(pid, signal)
  const deadline = Date.now() + STOP_WITHIN_MS
  while (isRunning(pid) && Date.now() < deadline) await sleep(10)
  if (isRunning(pid)) send(pid, 'SIGKILL')
}

function send(pid, signal) {
  try {
    process.kill(pid, signal)
    return true
  } catch {
    return false
  }
}

function isRunning(pid) {
  if (!send(pid, 0)) return false
  try {
    // In a container whose first process reaps nobody, a dead server stays a zombie.
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'))
  } catch {
    return process.platform !== 'linux'
  }
}
