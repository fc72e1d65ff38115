import { ConnectionLostError, currentScope, InvalidOptionError, type Scopes } from '@reqscope/core'
import { describe, expect, it } from 'vitest'
import { failureOf } from '../../core/test/gate.ts'
import reqscope, { RegistrationError, type ReqscopeOptions } from '../src/index.ts'
import { appWith, bareApp, memoryLogger, orders, ordersDatabase, schema, thingScopes } from './fixture.ts'

describe('registration', () => {
  const register = async (options: unknown) => bareApp().register(reqscope, options as ReqscopeOptions)

  it.each([
    { options: {}, option: 'reqscope.scopes' },
    { options: { scopes: {} }, option: 'reqscope.scopes' },
    { options: { scopes: thingScopes().scopes, postgres: {} }, option: 'reqscope.postgres' },
    { options: { scopes: thingScopes().scopes, settleTimeoutMs: 1 }, option: 'reqscope.settleTimeoutMs' },
    { options: { scopes: thingScopes().scopes, closeTimeoutMs: '10s' }, option: 'reqscope.closeTimeoutMs' },
    { options: { scopes: thingScopes().scopes, timeout: 1 }, option: 'reqscope.timeout' },
    { options: { postgres: { url: 'postgres://u@h/d', max: 0 } }, option: 'postgres.max' },
  ])('refuses a wrong option and names it: $option', async ({ options, option }) => {
    expect(await failureOf(register(options))).toMatchObject({ code: 'RSC_INVALID_OPTION', option })
  })

  it('refuses routes that were declared before it, and names them all', async () => {
    const app = bareApp()
    app.get('/early', () => 1)
    app.post('/early/:id', () => 1)
    await app.register(async (child) => void child.get('/child', () => 1), { prefix: '/api' })
    await app.register(reqscope, { scopes: thingScopes().scopes })
    app.get('/in-time', () => 1)
    const error = (await failureOf(app.ready())) as Error
    expect(error).toBeInstanceOf(RegistrationError)
    expect(error.message).toContain('GET, HEAD /early; POST /early/:id; GET, HEAD /api/child')
    expect(error.message).toContain('await app.register(reqscope')
    expect(error.message).not.toContain('in-time')
  })

  it('refuses routes that are declared after a register that nobody awaited', async () => {
    const app = bareApp()
    app.register(reqscope, { scopes: thingScopes().scopes })
    app.get('/too-soon', () => 1)
    expect(((await failureOf(app.ready())) as Error).message).toContain('/too-soon')
  })

  it('needs no await where the routes are in plugins of their own', async () => {
    const app = bareApp()
    app.register(reqscope, { scopes: thingScopes().scopes })
    app.register(async (child) => void child.get('/', (request) => ({ name: request.scope.name })))
    expect((await app.inject('/')).json()).toEqual({ name: 'GET /' })
  })

  it('leaves earlier routes of other contexts alone', async () => {
    const app = bareApp()
    app.get('/outside', () => ({ outside: true }))
    await app.register(async (child) => {
      await child.register(reqscope, { scopes: thingScopes().scopes })
      child.get('/inside', (request) => ({ name: request.scope.name }))
    })
    expect((await app.inject('/outside')).json()).toEqual({ outside: true })
    expect((await app.inject('/inside')).json()).toEqual({ name: 'GET /inside' })
    expect(app.hasDecorator('scopes')).toBe(false)
  })

  it('is refused twice, also in a child context', async () => {
    const { scopes } = thingScopes()
    const app = await appWith(scopes)
    const child = app.register(async (inner) => void (await inner.register(reqscope, { scopes })))
    expect(await failureOf(child)).toBeInstanceOf(RegistrationError)
    const again = bareApp()
    await again.register(reqscope, { scopes: thingScopes().scopes })
    expect(await failureOf(again.register(reqscope, { scopes: thingScopes().scopes }))).toMatchObject({
      message: expect.stringContaining('once'),
    })
  })

  it('is refused around a child context that has it already', async () => {
    const app = bareApp()
    await app.register(async (child) => {
      await child.register(reqscope, { scopes: thingScopes().scopes })
      child.get('/inside', () => 1)
    })
    await app.register(reqscope, { scopes: thingScopes().scopes })
    expect(((await failureOf(app.ready())) as Error).message).toMatch(/twice.*\/inside|before.*\/inside/)
  })

  it('keeps sibling contexts with runtimes of their own apart', async () => {
    const app = bareApp()
    const [left, right] = [thingScopes(), thingScopes()]
    for (const [path, { scopes }] of [['/left', left] as const, ['/right', right] as const]) {
      await app.register(async (child) => {
        await child.register(reqscope, { scopes })
        child.get(path, (request) => (request.scope as unknown as { thing: { owner: string } }).thing.owner)
      })
    }
    await app.inject('/left')
    expect([left.released, right.released]).toEqual([['completed'], []])
  })

  it('gives the routes that Fastify adds for HEAD a scope too', async () => {
    const { scopes, released } = thingScopes()
    const app = await appWith(scopes)
    app.get('/', (request) => (request.scope as unknown as { thing: { owner: string } }).thing.owner)
    expect((await app.inject({ method: 'HEAD', url: '/' })).statusCode).toBe(200)
    expect(released).toEqual(['completed'])
  })

  it("uses the application's logger where the runtime has none", async () => {
    const { createScopes } = await import('@reqscope/core')
    const { logger } = memoryLogger()
    const scopes: Scopes = createScopes({ resources: {} })
    const app = bareApp({ loggerInstance: Object.assign(logger, { trace() {}, fatal() {}, level: 'info' }) as never })
    await app.register(reqscope, { scopes })
    expect(scopes.logger).toBe(app.log)
  })
})

describe('the form without a runtime of its own', async () => {
  const database = await ordersDatabase()

  it('builds the runtime and puts it at app.scopes', async () => {
    const app = bareApp()
    await app.register(reqscope, { postgres: { url: database.url, schema }, settleTimeoutMs: 1_000 })
    const db = () =>
      (currentScope() as unknown as { db: import('@reqscope/core/postgres').BoundDatabase<typeof schema> }).db
    app.post('/', { config: { scope: { transaction: true } } }, async () =>
      db().insert(orders).values({ total: 7 }).returning(),
    )
    expect((await app.inject({ method: 'POST', url: '/' })).json()).toEqual([{ id: 1, total: 7 }])
    expect(app.scopes.settleTimeoutMs).toBe(1_000)
    expect((await app.scopes.health()).status).toBe('up')
    expect(await app.scopes.run({ name: 'count' }, async () => db().$count(orders))).toBe(1)
    await app.close()
    expect(app.scopes.state).toBe('closed')
  })

  it('fails at boot when the password is wrong, without saying it', async () => {
    const url = new URL(database.url)
    url.password = 'mistaken-secret'
    const error = (await failureOf(bareApp().register(reqscope, { postgres: { url: url.href } }))) as Error
    expect(error).toBeInstanceOf(ConnectionLostError)
    expect(error).toMatchObject({ reason: 'authentication' })
    expect(error.message).not.toContain('mistaken-secret')
    expect(error).not.toBeInstanceOf(InvalidOptionError)
  })
})
