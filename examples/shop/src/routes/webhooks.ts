import type { FastifyPluginAsyncJsonSchemaToTs } from '@fastify/type-provider-json-schema-to-ts'
import { eq } from 'drizzle-orm'
import { ProductNotFound } from '../errors.ts'
import { productUpdated } from '../jobs/product-updated.ts'
import { products } from '../schema.ts'

const update = {
  type: 'object',
  required: ['productId', 'priceCents'],
  additionalProperties: false,
  properties: {
    productId: { type: 'integer', minimum: 1, maximum: 2_147_483_647 },
    priceCents: { type: 'integer', minimum: 1, maximum: 100_000_000 },
  },
} as const

export const webhookRoutes: FastifyPluginAsyncJsonSchemaToTs = async (app) => {
  // A supplier tells of a new price. What takes longer is a job: it exists if, and only if, the new price is committed.
  app.post(
    '/webhooks/products',
    { schema: { body: update }, config: { scope: { transaction: true, timeoutMs: 5_000 } } },
    async ({ body: { productId, priceCents }, scope }, reply) => {
      const [before] = await scope.db
        .select({ priceCents: products.priceCents })
        .from(products)
        .where(eq(products.id, productId))
        .for('update')
      if (before === undefined) throw new ProductNotFound(productId)
      await scope.db.update(products).set({ priceCents }).where(eq(products.id, productId))
      await scope.enqueue(productUpdated, { productId, oldPriceCents: before.priceCents })
      return reply.code(202).send({ productId, priceCents })
    },
  )
}
