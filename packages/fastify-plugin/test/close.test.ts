import { once } from 'node:events'
import { Agent, get } from 'node:http'
import { connect } from 'node:net'
import Fastify from 'fastify'
import { describe, expect, it } from 'vitest'
import { Gate } from '../../core/test/gate.ts'
import reqscope from '../src/index.ts'
import { appWith, bareApp, portOf, thingScopes } from './fixture.ts'

describe('app.close()', () => {
  it('takes less than 5 s with keep-alive connections that became idle while it was closing', async () => {
    const app = await appWith(thingScopes().scopes, { keepAliveTimeout: 72_000 })
    const [begun, finish] = [new Gate(), new Gate()]
    app.get('/slow', async () => {
      begun.open()
      await finish.passed
      return 'done'
    })
    const port = await portOf(app)
    const agent = new Agent({ keepAlive: true })
    const request = get({ port, host: '127.0.0.1', path: '/slow', agent })
    await begun.passed
    const startedAt = performance.now()
    const closed = app.close()
    finish.open()
    const [response] = await once(request, 'response')
    response.resume()
    await closed
    expect(performance.now() - startedAt).toBeLessThan(5_000)
    agent.destroy()
  })

  it('waits for open scopes longer than the time Fastify gives a plugin', async () => {
    const { scopes, released } = thingScopes()
    const app = Fastify({ pluginTimeout: 100 })
    await app.register(reqscope, { scopes, closeTimeoutMs: 5_000 })
    const [begun, finish] = [new Gate(), new Gate()]
    app.get('/', async (request) => {
      void (request.scope as unknown as { thing: { owner: string } }).thing.owner
      begun.open()
      await finish.passed
      return 'done'
    })
    const answer = fetch(`http://127.0.0.1:${await portOf(app)}/`)
    await begun.passed
    const closed = app.close()
    setTimeout(() => finish.open(), 400)
    await closed
    expect(await (await answer).text()).toBe('done')
    expect(released).toEqual(['completed'])
  })

  it('cuts a socket that was upgraded and stays open', async () => {
    const app = bareApp()
    await app.register(reqscope, { scopes: thingScopes().scopes, closeTimeoutMs: 300 })
    const upgraded = new Gate()
    app.server.on('upgrade', (_request, socket) => {
      socket.on('error', () => {})
      socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n')
      upgraded.open()
    })
    const socket = connect(await portOf(app), '127.0.0.1').on('error', () => {})
    socket.write('GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n')
    await upgraded.passed
    const cut = once(socket.resume(), 'close')
    await app.close()
    await cut
  })

  it('closes an application that was never listening', async () => {
    const { scopes } = thingScopes()
    const app = await appWith(scopes)
    await app.ready()
    await app.close()
    expect(scopes.state).toBe('closed')
  })

  it('closes the runtime also when another plugin fails at boot', async () => {
    const { scopes } = thingScopes()
    const app = await appWith(scopes)
    app.register(async () => {
      throw new Error('another plugin')
    })
    await expect(app.ready()).rejects.toThrow('another plugin')
    await app.close()
    expect(scopes.state).toBe('closed')
  })

  it('installs no signal handlers', async () => {
    const count = () => ['SIGINT', 'SIGTERM'].map((signal) => process.listenerCount(signal))
    const before = count()
    await appWith(thingScopes().scopes)
    expect(count()).toEqual(before)
  })
})
