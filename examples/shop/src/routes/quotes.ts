import type { FastifyPluginAsyncJsonSchemaToTs } from '@fastify/type-provider-json-schema-to-ts'
import { inArray } from 'drizzle-orm'
import { basketLines, pricedLines, totalCentsOf } from '../basket.ts'
import { stock } from '../schema.ts'
import { taxPercentOf } from '../tax-service.ts'

const newQuote = {
  type: 'object',
  required: ['country', 'lines'],
  additionalProperties: false,
  properties: { country: { type: 'string', pattern: '^[A-Z]{2}$' }, lines: basketLines },
} as const

export const quoteRoutes: FastifyPluginAsyncJsonSchemaToTs = async (app) => {
  app.post('/quotes', { schema: { body: newQuote } }, async ({ body: { country, lines }, scope }) => {
    const priced = await pricedLines(scope.db, lines)
    const netCents = totalCentsOf(priced)

    // While the tax service takes its time, the connection goes to whoever waits for one.
    const taxPercent = await taxPercentOf(country, { signal: scope.signal })

    const left = await scope.db
      .select()
      .from(stock)
      .where(
        inArray(
          stock.productId,
          priced.map(({ productId }) => productId),
        ),
      )
    const inStock = new Map(left.map(({ productId, quantity }) => [productId, quantity]))
    const taxCents = Math.round((netCents * taxPercent) / 100)
    return {
      netCents,
      taxCents,
      totalCents: netCents + taxCents,
      lines: priced.map((line) => ({ ...line, available: (inStock.get(line.productId) ?? 0) >= line.quantity })),
    }
  })
}
