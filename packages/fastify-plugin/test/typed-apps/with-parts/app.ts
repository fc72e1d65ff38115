import { currentScope } from '@reqscope/core'
import reqscope, { type ScopesOf } from '@reqscope/fastify-plugin'
import { integer, pgTable } from 'drizzle-orm/pg-core'
import Fastify from 'fastify'

const orders = pgTable('orders', { id: integer('id').primaryKey(), total: integer('total').notNull() })
const schema = { orders }

declare module '@reqscope/core' {
  interface Register {
    scopes: ScopesOf<{ db: typeof schema }>
  }
}

const app = Fastify()
await app.register(reqscope, { postgres: { url: 'postgres://localhost/shop', schema }, settleTimeoutMs: 1_000 })

app.get('/orders', async (request) => {
  const found = await request.scope.db.query.orders.findMany()
  const total: number | undefined = found[0]?.total
  // @ts-expect-error not a table of the schema
  void currentScope().db.query.customers
  return total
})
await app.scopes.run({ name: 'nightly' }, async (scope) => scope.db.select().from(orders))
