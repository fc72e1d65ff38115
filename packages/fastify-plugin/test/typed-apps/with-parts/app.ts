import { currentScope } from '@reqscope/core'
import reqscope, { type ScopesOf } from '@reqscope/fastify-plugin'
import { integer, pgTable } from 'drizzle-orm/pg-core'
import Fastify from 'fastify'

const orders = pgTable('orders', { id: integer('id').primaryKey(), total: integer('total').notNull() })
const schema = { orders }

declare module '@reqscope/core' {
  interface Register {
    scopes: ScopesOf<{ db: typeof schema; redis: true }>
  }
}

const app = Fastify()
await app.register(reqscope, {
  postgres: { url: 'postgres://localhost/shop', schema },
  redis: { url: 'redis://localhost' },
  settleTimeoutMs: 1_000,
})

app.get('/orders', async (request) => {
  const found = await request.scope.db.query.orders.findMany()
  const total: number | undefined = found[0]?.total
  // @ts-expect-error not a table of the schema
  void currentScope().db.query.customers
  return total
})
app.get('/cached', async ({ scope: { redis } }) => {
  const cached: string | null = await redis.get('orders')
  // @ts-expect-error it would change the connection that all share
  void redis.watch('orders')
  // @ts-expect-error the same
  void redis.blpop('orders', 0)
  const replies: unknown[] | undefined = await redis.optimistic(['orders'], { attempts: 3 }, async (tx) => {
    // @ts-expect-error it would be written in every attempt
    void tx.set('orders', 1)
    return (await tx.get('orders')) === null ? tx.abandon() : tx.multi().incr('orders')
  })
  const popped: [string, string] | null = await redis.exclusive((connection) => connection.blpop('orders', 1))
  return [cached, replies, popped]
})
await app.scopes.run({ name: 'nightly' }, async (scope) => scope.db.select().from(orders))
