import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { describe, expect, it, onTestFinished, vi } from 'vitest'
import { type ChaosProxy, startChaosProxy } from '../src/chaos-proxy.ts'
import { connect as connectPostgres } from '../src/index.ts'
import { testDatabase } from '../src/testing.ts'

/** A server that answers every chunk with the same in capitals, and counts what reached it. */
async function echoServer() {
  const received: string[] = []
  const sockets = new Set<Socket>()
  const server = createServer((socket) => {
    sockets.add(socket)
    socket.setEncoding('utf8').on('error', () => {})
    socket.on('close', () => sockets.delete(socket))
    socket.on('data', (chunk: string) => {
      received.push(chunk)
      socket.write(chunk.toUpperCase())
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => {
    server.close()
    for (const socket of sockets) socket.destroy()
  })
  return { received, sockets, target: `127.0.0.1:${(server.address() as AddressInfo).port}` }
}

async function setUp() {
  const server = await echoServer()
  const proxy = await startChaosProxy({ target: server.target })
  onTestFinished(() => proxy.close())
  return { server, proxy }
}

async function client(proxy: ChaosProxy): Promise<Socket> {
  const socket = connect({ port: proxy.port, host: '127.0.0.1' })
  socket.setEncoding('utf8').on('error', () => {})
  onTestFinished(() => {
    socket.destroy()
  })
  await once(socket, 'connect')
  return socket
}

async function reply(socket: Socket, message: string): Promise<string> {
  socket.write(message)
  const [answer] = await once(socket, 'data')
  return answer
}

describe('the chaos proxy', () => {
  it('forwards both ways, and counts its connections', async () => {
    const { proxy, server } = await setUp()
    const socket = await client(proxy)
    expect(await reply(socket, 'hello')).toBe('HELLO')
    expect(proxy.connections).toBe(1)
    socket.end()
    await once(socket, 'close')
    await vi.waitFor(() => expect(proxy.connections).toBe(0))
    await vi.waitFor(() => expect(server.sockets.size).toBe(0))
  })

  it('delays each direction, in order', async () => {
    const { proxy } = await setUp()
    const socket = await client(proxy)
    proxy.delay(30)
    const begun = performance.now()
    socket.write('a')
    proxy.delay(0)
    socket.write('b')
    let answer = ''
    while (answer.length < 2) answer += (await once(socket, 'data'))[0]
    expect(answer).toBe('AB')
    proxy.delay(30)
    await reply(socket, 'c')
    expect(performance.now() - begun).toBeGreaterThanOrEqual(60)
  })

  it('cuts open connections on both sides, and serves new ones', async () => {
    const { proxy, server } = await setUp()
    const socket = await client(proxy)
    await reply(socket, 'hello')
    const failed = new Promise((resolve) => socket.once('error', resolve))
    proxy.cut()
    expect(await failed).toMatchObject({ code: 'ECONNRESET' })
    await vi.waitFor(() => expect(server.sockets.size).toBe(0))
    expect(await reply(await client(proxy), 'again')).toBe('AGAIN')
  })

  it('swallows everything as a black hole, and forwards it when it resumes', async () => {
    const { proxy, server } = await setUp()
    const before = await client(proxy)
    await reply(before, 'hello')
    proxy.blackHole()
    const during = await client(proxy)
    before.write('one')
    during.write('two')
    during.end()
    const direct = connect(Number(server.target.split(':')[1]), '127.0.0.1')
    await once(direct.setEncoding('utf8'), 'connect')
    expect(await reply(direct, 'round trip')).toBe('ROUND TRIP')
    direct.destroy()
    expect(server.received).toEqual(['hello', 'round trip'])
    const answers = Promise.all([once(before, 'data'), once(during, 'data')])
    await proxy.resume()
    expect(await answers).toEqual([['ONE'], ['TWO']])
  })

  it('does not tell the server that a client left while it is a black hole', async () => {
    const { proxy, server } = await setUp()
    const socket = await client(proxy)
    await reply(socket, 'hello')
    proxy.blackHole()
    socket.resetAndDestroy()
    await vi.waitFor(() => expect(proxy.connections).toBe(0))
    expect(server.sockets.size).toBe(1)
    await proxy.resume()
    await vi.waitFor(() => expect(server.sockets.size).toBe(0))
  })

  it('refuses new connections and keeps open ones until it resumes', async () => {
    const { proxy } = await setUp()
    const socket = await client(proxy)
    proxy.refuse()
    await expect(client(proxy)).rejects.toMatchObject({ code: 'ECONNREFUSED' })
    expect(await reply(socket, 'still here')).toBe('STILL HERE')
    await proxy.resume()
    expect(await reply(await client(proxy), 'back')).toBe('BACK')
  })

  it('resets a client whose server is down', async () => {
    const { proxy } = await setUp()
    const nobody = await startChaosProxy({ target: `127.0.0.1:${proxy.port}` })
    onTestFinished(() => nobody.close())
    await proxy.close()
    const socket = connect({ port: nobody.port, host: '127.0.0.1' })
    expect(await new Promise((resolve) => socket.once('error', resolve))).toMatchObject({ code: 'ECONNRESET' })
    expect(nobody.connections).toBe(0)
  })

  it('stands between Postgres and its client', async () => {
    const database = await testDatabase()
    const proxy = await startChaosProxy({ target: database.url })
    onTestFinished(() => proxy.close())
    const sql = connectPostgres(proxy.url(database.url))
    expect(await sql`select 1 as one`).toEqual([{ one: 1 }])
    const sleeping = sql`select pg_sleep(20)`.then(
      () => 'slept',
      (error) => error.code,
    )
    proxy.cut()
    expect(await sleeping).toMatch(/ECONNRESET|CONNECTION_CLOSED/)
    await sql.end({ timeout: 0 })
  })
})
