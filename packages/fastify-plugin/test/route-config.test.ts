import { createScopes } from '@reqscope/core'
import { postgres } from '@reqscope/core/postgres'
import { describe, expect, it } from 'vitest'
import reqscope from '../src/index.ts'
import { appWith, bareApp, ordersDatabase, thingScopes } from './fixture.ts'

describe('config.scope', async () => {
  const database = await ordersDatabase()
  const withPostgres = async () => {
    const app = bareApp()
    await app.register(reqscope, { scopes: createScopes({ resources: { db: postgres({ url: database.url }) } }) })
    return app
  }

  it.each([
    { scope: true, option: 'config.scope of POST /orders' },
    { scope: [], option: 'config.scope of POST /orders' },
    { scope: { transactions: true }, option: 'config.scope of POST /orders.transactions' },

    { scope: { timeoutMs: '5s' }, option: 'config.scope of POST /orders.timeoutMs' },
    { scope: { timeoutMs: 0 }, option: 'config.scope of POST /orders.timeoutMs' },
    { scope: { onAbort: 'ignore' }, option: 'config.scope of POST /orders.onAbort' },
    { scope: { transaction: 'yes' }, option: 'config.scope of POST /orders.transaction' },
    {
      scope: { transaction: { isolation: 'serializable' } },
      option: 'config.scope of POST /orders.transaction.isolation',
    },
    {
      scope: { transaction: { isolationLevel: 'strict' } },
      option: 'config.scope of POST /orders.transaction.isolationLevel',
    },
    { scope: { transaction: { commitWhen: 200 } }, option: 'config.scope of POST /orders.transaction.commitWhen' },
    { scope: { transaction: { resource: 'other' } }, option: 'config.scope of POST /orders.transaction.resource' },
  ])('is refused where the route is declared: $option', async ({ scope, option }) => {
    const app = await withPostgres()
    const declare = () => app.post('/orders', { config: { scope: scope as never } }, () => 1)
    expect(declare).toThrow(expect.objectContaining({ code: 'RSC_INVALID_OPTION', option }))
  })

  it('refuses a transaction without a resource that knows transactions', async () => {
    const app = await appWith(thingScopes().scopes)
    expect(() => app.get('/', { config: { scope: { transaction: true } } }, () => 1)).toThrow(
      /left out: the runtime has no resource that knows transactions/,
    )
  })

  it('opts a route out with false, and request.scope then says so', async () => {
    const { scopes } = thingScopes()
    const app = await appWith(scopes)
    app.get('/out', { config: { scope: false } }, async (request) => {
      expect(scopes.snapshot().openScopes.total).toBe(0)
      return request.scope.id
    })
    const answer = await app.inject('/out')
    expect(answer.statusCode).toBe(500)
    expect(answer.json()).toMatchObject({ code: 'RSC_NO_ACTIVE_SCOPE' })
  })

  it("leaves the route's other config alone", async () => {
    const app = await appWith(thingScopes().scopes)
    const config = { scope: { timeoutMs: 1_000 }, theirs: 'kept' }
    app.get('/', { config: config as object }, (request) => request.routeOptions.config)
    expect((await app.inject('/')).json()).toMatchObject({ theirs: 'kept', url: '/', method: 'GET' })
    expect(Object.getOwnPropertySymbols(config)).toEqual([])
  })

  it('bounds the whole request by timeoutMs, a hook that waits included', async () => {
    const app = await appWith(thingScopes().scopes)
    app.get('/', { config: { scope: { timeoutMs: 50 } }, preHandler: () => new Promise(() => {}) }, () => 1)
    expect((await app.inject('/')).json()).toMatchObject({ status: 504, code: 'RSC_DEADLINE_EXCEEDED' })
  })
})
