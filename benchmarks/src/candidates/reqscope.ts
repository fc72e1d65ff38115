import { setTimeout as delay } from 'node:timers/promises'
import { createScopes } from '@reqscope/core'
import { postgres } from '@reqscope/core/postgres'
import reqscope from '@reqscope/fastify-plugin'
import { eq } from 'drizzle-orm'
import Fastify from 'fastify'
import { databaseUrl, serve } from './answer.ts'
import { nextId, products, schema } from './products.ts'

const scopes = createScopes({ resources: { db: postgres({ url: databaseUrl, schema, max: 10 }) } })
declare module '@reqscope/core' {
  interface Register {
    scopes: typeof scopes
  }
}
const app = Fastify()
await app.register(reqscope, { scopes })

app.get('/selects', async ({ scope }) => {
  const [a] = await scope.db.select().from(products).where(eq(products.id, nextId()))
  const [b] = await scope.db.select().from(products).where(eq(products.id, nextId()))
  return { a, b }
})

app.get('/transaction', async ({ scope }) =>
  scope.db.transaction(async (tx) => {
    const [a] = await tx.select().from(products).where(eq(products.id, nextId()))
    const [b] = await tx.select().from(products).where(eq(products.id, nextId()))
    return { a, b }
  }),
)

app.get('/slow-api', async ({ scope }) => {
  const { $client: sql } = scope.db
  const [a] = await sql`select * from products where id = ${nextId()}`
  await delay(100)
  const [b] = await sql`select * from products where id = ${nextId()}`
  return { a, b }
})
await serve(app)
