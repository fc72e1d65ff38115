import { defineJob } from '@reqscope/core/jobs'
import { eq } from 'drizzle-orm'
import { z } from 'zod'
import { products } from '../schema.ts'

/**
 * What follows a supplier's webhook. It once was a background task that was passed the request's session, and kept its
 * transaction open; a job is passed an id, and reads through a scope of its own.
 */
export const productUpdated = defineJob({
  name: 'product-updated',
  queue: 'mail',
  data: z.object({ productId: z.number().int(), oldPriceCents: z.number().int() }),
  attempts: 50,
  backoff: 200,
  timeoutMs: 10_000,
  async run({ data, scope, id }) {
    const product = await scope.db.query.products.findFirst({ where: eq(products.id, data.productId) })
    if (product === undefined) return
    await scope.mailer.send({
      key: `product-${product.id}-${id}`,
      to: 'purchasing@example.com',
      subject: `${product.name} has a new price`,
      text: `It was ${data.oldPriceCents} cents and is ${product.priceCents} now.`,
    })
  },
})
