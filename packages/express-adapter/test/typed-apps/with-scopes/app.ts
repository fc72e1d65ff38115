import { createScopes, currentScope, defineResource } from '@reqscope/core'
import { postgres } from '@reqscope/core/postgres'
import {
  concurrency,
  health,
  onShutdown,
  rateLimit,
  reqscope,
  reqscopeErrors,
  scopeOptions,
  transactional,
} from '@reqscope/express-adapter'
import { integer, pgTable } from 'drizzle-orm/pg-core'
import express from 'express'

const orders = pgTable('orders', { id: integer('id').primaryKey(), total: integer('total').notNull() })
const scopes = createScopes({
  resources: {
    db: postgres({ url: 'postgres://localhost/shop', schema: { orders } }),
    mailer: defineResource({ handle: () => ({ send: async (_to: string) => true }) }),
  },
})

declare module '@reqscope/core' {
  interface Register {
    scopes: typeof scopes
  }
}

const app = express()
app.use(health(), health({ scopes, details: true }))
app.use(reqscope({ scopes, timeoutMs: 5_000 }))

app.get('/orders', scopeOptions({ timeoutMs: 1_000, onAbort: 'finish' }), async (request, response) => {
  const found = await request.scope.db.query.orders.findMany()
  const total: number | undefined = found[0]?.total
  await currentScope().mailer.send(`${total}`)
  // @ts-expect-error there is no such resource
  void request.scope.redis
  // @ts-expect-error a handle is not assigned to
  request.scope.db = undefined
  response.json(found)
})
app.post(
  '/orders',
  transactional(async (request, response) => {
    const [order] = await request.scope.db.insert(orders).values(request.body).returning()
    return response.status(201).json(order)
  }),
)
app.post(
  '/orders/:id',
  transactional({ isolationLevel: 'serializable' }, (request, response) => response.json(request.params.id)),
)
app.delete('/orders/:id', transactional(), (request, response) => void response.json(request.params.id))
const byUser = rateLimit({ limit: 60, windowMs: 60_000, key: (request) => request.get('x-user') })
const plans = rateLimit([{ limit: (request) => (request.ip === '::1' ? 10 : 100), windowMs: 60_000, name: 'plan' }])
app.get('/limited/:id', byUser, plans, concurrency({ max: 1, priority: 'critical' }), async (request, response) => {
  const id: string = request.params.id
  response.json(id)
})
// @ts-expect-error a limit stands where it is decided
rateLimit({ limit: 60, windowMs: 60_000, stage: 'preHandler' })
// @ts-expect-error there is no such priority
concurrency({ max: 1, priority: 'high' })
// @ts-expect-error not a number of milliseconds
app.get('/a', scopeOptions({ timeoutMs: '1s' }))
// @ts-expect-error an unknown isolation level
app.get('/b', transactional({ isolationLevel: 'strict' }))
app.use(reqscopeErrors())

const close: () => Promise<void> = onShutdown(app.listen(3_000), { closeTimeoutMs: 5_000 })
await close()
