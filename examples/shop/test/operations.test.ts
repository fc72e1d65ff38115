import { describe, expect, it, vi } from 'vitest'
import { stock } from '../src/schema.ts'
import { testShop } from './shop.ts'

const { app, scopes, sql } = await testShop()

describe('GET /health', () => {
  it('says that all is well, once the event loop has recovered from the start', async () => {
    await vi.waitFor(async () => {
      const response = await app.inject('/health')
      expect(response.statusCode).toBe(200)
      expect(response.json()).toMatchObject({ status: 'up', resources: { db: { status: 'up' } } })
    }, 10_000)
  })
})

describe('GET /health/live and /health/ready', () => {
  it('tell a load balancer that the shop is alive, and that it may be sent requests', async () => {
    expect((await app.inject('/health/live')).json()).toEqual({ status: 'up' })
    const ready = await app.inject('/health/ready')
    expect([ready.statusCode, ready.json()]).toMatchObject([200, { state: 'open', resources: { db: 'up' } }])
  })
})

describe('GET /debug/connections', () => {
  it('says who holds a connection, and since when', async () => {
    await scopes.run({ name: 'stock-taking' }, async (scope) => {
      await scope.transaction(async () => {
        await scope.db.$count(stock)
        const response = await app.inject('/debug/connections')
        const [holder] =
          await sql`select pid from pg_stat_activity where datname = current_database() and state = 'idle in transaction' and query like '%"stock"%'`
        const { openScopes, leases } = response.json<ReturnType<typeof scopes.snapshot>>()
        expect(openScopes.task).toBe(1)
        expect(leases.find((lease) => lease.scope?.name === 'stock-taking')).toMatchObject({
          scope: { kind: 'task' },
          state: 'transaction',
          backend: holder?.pid,
        })
      })
    })
    const { leases } = (await app.inject('/debug/connections')).json<ReturnType<typeof scopes.snapshot>>()
    expect(leases.filter((lease) => lease.scope?.name === 'stock-taking')).toEqual([])
  })
})
