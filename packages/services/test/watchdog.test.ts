import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { connect } from 'node:net'
import { createInterface } from 'node:readline'
import type { Readable } from 'node:stream'
import { fileURLToPath } from 'node:url'
import { describe, expect, it, onTestFinished, vi } from 'vitest'

interface Started {
  pids: number[]
  urls: string[]
  folder: string
}

async function owner(): Promise<{ process: ChildProcess; started: Started }> {
  const script = fileURLToPath(new URL('./owner-process.ts', import.meta.url))
  const child = fork(script, { execArgv: ['--import', 'tsx'], stdio: ['ignore', 'pipe', 'ignore', 'ipc'] })
  onTestFinished(() => {
    child.kill('SIGKILL')
  })
  const [line] = await once(createInterface({ input: child.stdout as Readable }), 'line')
  return { process: child, started: JSON.parse(line) }
}

function accepts(url: string): Promise<boolean> {
  const { hostname, port } = new URL(url)
  return new Promise((resolve) => {
    const socket = connect({ host: hostname, port: Number(port) })
    socket.once('connect', () => resolve(socket.destroy().destroyed)).once('error', () => resolve(false))
  })
}

async function nothingLeft({ urls, folder }: Started): Promise<void> {
  await vi.waitFor(
    async () => {
      expect(await Promise.all(urls.map(accepts))).toEqual([false, false])
      expect(existsSync(folder)).toBe(false)
    },
    { timeout: 10_000, interval: 20 },
  )
}

describe('servers and their folders are gone', () => {
  it.each(['SIGKILL', 'SIGTERM', 'SIGINT'] as const)('after the process that started them got a %s', async (signal) => {
    const { process, started } = await owner()
    expect(await Promise.all(started.urls.map(accepts))).toEqual([true, true])
    process.kill(signal)
    await nothingLeft(started)
  })

  it.each(['returns', 'throws', 'exits'])(
    'after the process that started them %s without stopping them',
    async (ending) => {
      const { process, started } = await owner()
      process.send(ending)
      await nothingLeft(started)
    },
  )
})
