import type { FastifyPluginAsyncJsonSchemaToTs } from '@fastify/type-provider-json-schema-to-ts'
import { eq } from 'drizzle-orm'
import { OutOfStock, UnknownProduct } from '../errors.ts'
import { stock } from '../schema.ts'
import { redisOf } from '../scopes.ts'

const LAPSES_AFTER_SECONDS = 600

const newReservation = {
  type: 'object',
  required: ['productId', 'quantity'],
  additionalProperties: false,
  properties: {
    productId: { type: 'integer', minimum: 1, maximum: 2_147_483_647 },
    quantity: { type: 'integer', minimum: 1, maximum: 100 },
  },
} as const

export const reservationRoutes: FastifyPluginAsyncJsonSchemaToTs = async (app) => {
  app.post(
    '/reservations',
    { schema: { body: newReservation } },
    async ({ body: { productId, quantity }, scope }, reply) => {
      const { db } = scope
      const key = `reserved:${productId}`
      let left = 0
      await redisOf(scope).optimistic([key], { attempts: 10 }, async (tx) => {
        const reserved = Number(await tx.get(key))
        const [row] = await db.select().from(stock).where(eq(stock.productId, productId))
        if (row === undefined) throw new UnknownProduct(productId)
        left = row.quantity - reserved - quantity
        if (left < 0) throw new OutOfStock(productId)
        return tx.multi().incrby(key, quantity).expire(key, LAPSES_AFTER_SECONDS)
      })
      reply.code(201)
      return { productId, quantity, left }
    },
  )
}
