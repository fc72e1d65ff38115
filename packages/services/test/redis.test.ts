import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { type RedisOptions, type RedisServer, startRedis } from '../src/index.ts'
import { findRedis } from '../src/redis-binary.ts'
import { testRedis } from '../src/testing.ts'

async function ownServer(options: RedisOptions = {}): Promise<RedisServer> {
  const server = await startRedis({ own: true, ...options })
  onTestFinished(() => server.stop())
  return server
}

/** One inline command and its one-line reply. */
function ask(url: string, command: string): Promise<string> {
  const { hostname, port } = new URL(url)
  return new Promise((resolve, reject) => {
    const socket: Socket = connect({ host: hostname, port: Number(port) }, () => socket.write(`${command}\r\n`))
    socket.setEncoding('utf8').once('error', reject)
    socket.once('data', (reply: string) => {
      socket.destroy()
      resolve(reply.trimEnd())
    })
  })
}

describe('a Redis server', () => {
  it('answers as soon as it has started, and is gone when it has stopped', async () => {
    const server = await ownServer()
    expect(await ask(server.url, 'PING')).toBe('+PONG')
    await server.stop()
    await expect(ask(server.url, 'PING')).rejects.toMatchObject({ code: 'ECONNREFUSED' })
    expect(server.pid).toBeUndefined()
  })

  it('comes back empty on the same port without AOF', async () => {
    const server = await ownServer()
    const { url } = server
    await ask(url, 'SET kept 42')
    await server.restart()
    expect(server.url).toBe(url)
    expect(await ask(url, 'EXISTS kept')).toBe(':0')
  })

  it('keeps what it acknowledged through a crash with AOF', async () => {
    const server = await ownServer({ aof: true })
    await ask(server.url, 'SET kept 42')
    server.kill('SIGKILL')
    await server.restart()
    expect(await ask(server.url, 'EXISTS kept')).toBe(':1')
  })

  it('keeps its data in the folder that was named', async () => {
    const dataFolder = mkdtempSync(join(tmpdir(), 'reqscope-kept-'))
    onTestFinished(() => rmSync(dataFolder, { recursive: true }))
    const first = await ownServer({ aof: true, dataFolder })
    await ask(first.url, 'SET kept 42')
    await first.stop()
    expect(readdirSync(dataFolder)).not.toEqual([])
    const second = await ownServer({ aof: true, dataFolder })
    expect(await ask(second.url, 'EXISTS kept')).toBe(':1')
  })

  it('can be stopped while it hangs', async () => {
    const server = await ownServer()
    server.kill('SIGSTOP')
    await server.stop()
    expect(server.pid).toBeUndefined()
  })

  it('waits for the port that was asked for, and says so when it stays taken', async () => {
    const server = await ownServer()
    const port = Number(new URL(server.url).port)
    const second = startRedis({ own: true, port })
    await server.stop()
    const started = await second
    onTestFinished(() => started.stop())
    expect(new URL(started.url).port).toBe(String(port))
  })
})

describe('the Redis program', () => {
  it('is redis-server or valkey-server from the PATH, in this order', () => {
    const folder = mkdtempSync(join(tmpdir(), 'reqscope-path-'))
    onTestFinished(() => rmSync(folder, { recursive: true }))
    const program = (name: string) => {
      mkdirSync(join(folder, name))
      writeFileSync(join(folder, name, name), '', { mode: 0o755 })
      return join(folder, name)
    }
    const path = `${program('valkey-server')}:${program('redis-server')}`
    expect(findRedis(path)).toBe(join(folder, 'redis-server', 'redis-server'))
  })
})

describe('an external Redis', () => {
  it('is used, and never touched, when REDIS_URL names one', async () => {
    process.env.REDIS_URL = await testRedis()
    onTestFinished(() => {
      delete process.env.REDIS_URL
    })
    const server = await startRedis()
    expect(server).toMatchObject({ url: process.env.REDIS_URL, external: true, pid: undefined })
    await expect(server.restart()).rejects.toThrow(/own: true/)
    await server.stop()
    expect(await ask(server.url, 'PING')).toBe('+PONG')
    expect(existsSync('dump.rdb')).toBe(false)
  })
})
