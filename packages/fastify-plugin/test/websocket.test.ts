import { once } from 'node:events'
import websocket from '@fastify/websocket'
import { tryCurrentScope } from '@reqscope/core'
import { describe, expect, it, vi } from 'vitest'
import { WebSocket } from 'ws'
import { Gate } from '../../core/test/gate.ts'
import reqscope from '../src/index.ts'
import { bareApp, portOf, thingScopes } from './fixture.ts'

describe.each([{ first: 'websocket' }, { first: 'reqscope' }])(
  'a websocket route, with $first registered first',
  ({ first }) => {
    const chat = async () => {
      const { scopes, released } = thingScopes()
      const app = bareApp()
      if (first === 'websocket') await app.register(websocket)
      await app.register(reqscope, { scopes, closeTimeoutMs: 4_000 })
      if (first === 'reqscope') await app.register(websocket)
      const messages: { scope: string | undefined; current: boolean; upgraded: boolean }[] = []
      app.get('/chat', { websocket: true }, (socket, request) => {
        const upgraded = request.scope
        void (upgraded as unknown as { thing: { owner: string } }).thing.owner
        socket.on('message', (text) => {
          void scopes.run({ name: 'chat message', kind: 'task' }, async (scope) => {
            messages.push({
              scope: scope.name,
              current: (tryCurrentScope() as unknown) === scope,
              upgraded: upgraded.state === 'open',
            })
            socket.send(`heard ${text}`)
          })
        })
      })
      const port = await portOf(app)
      const socket = new WebSocket(`ws://127.0.0.1:${port}/chat`)
      await once(socket, 'open')
      return { app, scopes, released, messages, socket }
    }

    it('keeps its scope until the socket closes', async () => {
      const { scopes, released, socket } = await chat()
      expect(scopes.snapshot().openScopes).toMatchObject({ request: 1 })
      expect(released).toEqual([])
      socket.close()
      await vi.waitFor(() => expect(scopes.snapshot().openScopes.total).toBe(0))
      expect(released).toHaveLength(1)
    })

    it('gives each message a scope of its own', async () => {
      const { scopes, messages, socket } = await chat()
      for (const text of ['one', 'two']) {
        socket.send(text)
        expect(String((await once(socket, 'message'))[0])).toBe(`heard ${text}`)
      }
      expect(messages).toEqual([
        { scope: 'chat message', current: true, upgraded: true },
        { scope: 'chat message', current: true, upgraded: true },
      ])
      socket.terminate()
      await vi.waitFor(() => expect(scopes.snapshot().openScopes.total).toBe(0))
    })

    it('does not keep the application from closing', async () => {
      const { app, scopes, released, socket } = await chat()
      const closed = once(socket, 'close')
      const startedAt = performance.now()
      await app.close()
      await closed
      expect(performance.now() - startedAt).toBeLessThan(2_000)
      expect(scopes.state).toBe('closed')
      expect(released).toHaveLength(1)
    })

    it('cannot have a transaction', async () => {
      const { scopes } = thingScopes()
      const app = bareApp()
      await app.register(websocket)
      await app.register(reqscope, { scopes })
      const declare = () => app.get('/', { websocket: true, config: { scope: { transaction: true } } }, () => {})
      expect(declare).toThrow(/scopes\.run and scope\.transaction for each message/)
    })
  },
)

it('ends the scope of an upgrade that no route takes', async () => {
  const { scopes } = thingScopes()
  const app = bareApp()
  await app.register(reqscope, { scopes })
  await app.register(websocket)
  const refused = new Gate<unknown>()
  const port = await portOf(app)
  const socket = new WebSocket(`ws://127.0.0.1:${port}/nowhere`)
  socket.on('error', refused.open)
  expect(String(await refused.passed)).toContain('404')
  await vi.waitFor(() => expect(scopes.snapshot().openScopes.total).toBe(0))
})
