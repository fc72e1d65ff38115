import { setTimeout as delay } from 'node:timers/promises'
import { eq } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/postgres-js'
import Fastify from 'fastify'
import postgres from 'postgres'
import { databaseUrl, serve } from './answer.ts'
import { nextId, products, schema } from './products.ts'

const sql = postgres(databaseUrl, { max: 10 })
const db = drizzle(sql, { schema })
const app = Fastify()

app.get('/selects', async () => {
  const [a] = await db.select().from(products).where(eq(products.id, nextId()))
  const [b] = await db.select().from(products).where(eq(products.id, nextId()))
  return { a, b }
})

app.get('/transaction', async () =>
  db.transaction(async (tx) => {
    const [a] = await tx.select().from(products).where(eq(products.id, nextId()))
    const [b] = await tx.select().from(products).where(eq(products.id, nextId()))
    return { a, b }
  }),
)

// One connection a request, from its beginning to its end: what session-per-request does.
app.get('/slow-api', async () => {
  const connection = await sql.reserve()
  try {
    const [a] = await connection`select * from products where id = ${nextId()}`
    await delay(100)
    const [b] = await connection`select * from products where id = ${nextId()}`
    return { a, b }
  } finally {
    connection.release()
  }
})
await serve(app)
