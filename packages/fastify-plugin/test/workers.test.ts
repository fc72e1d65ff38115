import { createScopes } from '@reqscope/core'
import { bullmq, defineJob } from '@reqscope/core/jobs'
import { postgres } from '@reqscope/core/postgres'
import { expect, it } from 'vitest'
import reqscope, { reqscopeWorkers } from '../src/index.ts'
import { bareApp, memoryLogger, orders, ordersDatabase, schema } from './fixture.ts'

it('runs what a transactional route has enqueued, once it has committed, and closes with the application', async () => {
  const database = await ordersDatabase()
  const scopes = createScopes({
    resources: { db: postgres({ url: database.url, schema, max: 4 }) },
    jobs: bullmq({ transport: 'postgres' }),
    logger: memoryLogger().logger,
  })
  const ran: number[] = []
  let done!: () => void
  const finished = new Promise<void>((resolve) => (done = resolve))
  const receipt = defineJob<{ total: number; last?: boolean }>()({
    name: 'receipt',
    run({ data }) {
      ran.push(data.total)
      if (data.last) done()
    },
  })
  const app = bareApp()
  await app.register(reqscope, { scopes })
  await app.register(reqscopeWorkers, { jobs: [receipt] })
  app.post<{ Params: { total: string } }>(
    '/orders/:total',
    { config: { scope: { transaction: true } } },
    async (request) => {
      const total = Number(request.params.total)
      const { db } = request.scope as unknown as {
        db: (typeof scopes extends { open(...args: never[]): infer S } ? S : never)['db']
      }
      await request.scope.enqueue(receipt, { total, last: total === 3 })
      await db.insert(orders).values({ total })
      return {}
    },
  )
  const status = async (total: number) => (await app.inject({ method: 'POST', url: `/orders/${total}` })).statusCode
  expect(await status(1)).toBe(200)
  expect(await status(-2)).toBe(500) // refused by the table's check, after the enqueue
  expect(await status(3)).toBe(200)
  await finished
  expect(ran).toEqual([1, 3])
  await app.close()
  expect(scopes.state).toBe('closed')
})
