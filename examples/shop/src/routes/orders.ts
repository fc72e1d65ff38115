import type { FastifyPluginAsyncJsonSchemaToTs } from '@fastify/type-provider-json-schema-to-ts'
import { and, eq, gte, sql } from 'drizzle-orm'
import { type BasketLine, basketLines, pricedLines, totalCentsOf } from '../basket.ts'
import { OutOfStock, UnknownCustomer } from '../errors.ts'
import { sendReceipt } from '../jobs/send-receipt.ts'
import { customers, orderLines, orders, stock } from '../schema.ts'
import type { ShopDatabase } from '../scopes.ts'

const newOrder = {
  type: 'object',
  required: ['customerId', 'lines'],
  additionalProperties: false,
  properties: { customerId: { type: 'integer', minimum: 1, maximum: 2_147_483_647 }, lines: basketLines },
} as const

export const orderRoutes: FastifyPluginAsyncJsonSchemaToTs = async (app) => {
  // The whole handler is one transaction. It commits before the client hears of it; what is thrown rolls it back.
  app.post(
    '/orders',
    { schema: { body: newOrder }, config: { scope: { transaction: true, timeoutMs: 5_000, priority: 'critical' } } },
    async ({ body: { customerId, lines }, scope }, reply) => {
      const { db } = scope
      await requireCustomer(db, customerId)
      const priced = await pricedLines(db, lines)
      for (const line of priced) await takeFromStock(db, line)

      const [order] = await db
        .insert(orders)
        .values({ customerId, totalCents: totalCentsOf(priced) })
        .returning()
      if (order === undefined) throw new Error('The insert returned nothing.')
      await db.insert(orderLines).values(priced.map((line) => ({ orderId: order.id, ...line })))
      await scope.enqueue(sendReceipt, { orderId: order.id })
      return reply.code(201).send({ ...order, lines: priced })
    },
  )
}

async function requireCustomer(db: ShopDatabase, id: number): Promise<void> {
  const [found] = await db.select({ id: customers.id }).from(customers).where(eq(customers.id, id))
  if (found === undefined) throw new UnknownCustomer(id)
}

/** Looking and taking is one statement, so two orders cannot take the same last piece. */
async function takeFromStock(db: ShopDatabase, { productId, quantity }: BasketLine): Promise<void> {
  const [taken] = await db
    .update(stock)
    .set({ quantity: sql`${stock.quantity} - ${quantity}` })
    .where(and(eq(stock.productId, productId), gte(stock.quantity, quantity)))
    .returning({ left: stock.quantity })
  if (taken === undefined) throw new OutOfStock(productId)
}
