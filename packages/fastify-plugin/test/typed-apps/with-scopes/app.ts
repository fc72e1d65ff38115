import { createScopes, currentScope, defineResource } from '@reqscope/core'
import { postgres } from '@reqscope/core/postgres'
import reqscope, { type ReqscopeOptions } from '@reqscope/fastify-plugin'
import { integer, pgTable } from 'drizzle-orm/pg-core'
import Fastify from 'fastify'

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

const app = Fastify()
await app.register(reqscope, { scopes, closeTimeoutMs: 5_000 })

app.get('/orders', { config: { scope: { timeoutMs: 1_000, onAbort: 'finish' } } }, async (request) => {
  const found = await request.scope.db.query.orders.findMany()
  const total: number | undefined = found[0]?.total
  await currentScope().mailer.send(`${total}`)
  // @ts-expect-error there is no such resource
  void request.scope.redis
  // @ts-expect-error a handle is not assigned to
  request.scope.db = undefined
  return found
})
app.post('/orders', { config: { scope: { transaction: { isolationLevel: 'serializable' } } } }, () => 1)
app.get('/health', { config: { scope: false } }, async () => app.scopes.health())
// @ts-expect-error not a number of milliseconds
app.get('/a', { config: { scope: { timeoutMs: '1s' } } }, () => 1)
// @ts-expect-error an unknown isolation level
app.get('/b', { config: { scope: { transaction: { isolationLevel: 'strict' } } } }, () => 1)

await app.scopes.run({ name: 'nightly' }, async (scope) => scope.db.select().from(orders))

// @ts-expect-error one form or the other
const both: ReqscopeOptions = { scopes, postgres: { url: 'postgres://localhost/shop' } }
void both
