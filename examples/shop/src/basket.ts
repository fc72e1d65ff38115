import { inArray } from 'drizzle-orm'
import { UnknownProduct } from './errors.ts'
import { products } from './schema.ts'
import type { ShopDatabase } from './scopes.ts'

export interface BasketLine {
  readonly productId: number
  readonly quantity: number
}

export interface PricedLine extends BasketLine {
  readonly unitPriceCents: number
}

/** The lines of an order or a quote, as clients send them. */
export const basketLines = {
  type: 'array',
  minItems: 1,
  maxItems: 20,
  items: {
    type: 'object',
    required: ['productId', 'quantity'],
    additionalProperties: false,
    properties: {
      productId: { type: 'integer', minimum: 1, maximum: 2_147_483_647 },
      quantity: { type: 'integer', minimum: 1, maximum: 100 },
    },
  },
} as const

/** Looks the prices up. One line a product, by ascending id: whoever locks rows in this order cannot deadlock. */
export async function pricedLines(db: ShopDatabase, lines: readonly BasketLine[]): Promise<PricedLine[]> {
  const quantities = new Map<number, number>()
  for (const { productId, quantity } of lines) quantities.set(productId, (quantities.get(productId) ?? 0) + quantity)
  const found = await db
    .select({ id: products.id, priceCents: products.priceCents })
    .from(products)
    .where(inArray(products.id, [...quantities.keys()]))
  const prices = new Map(found.map(({ id, priceCents }) => [id, priceCents]))
  return [...quantities]
    .sort(([one], [other]) => one - other)
    .map(([productId, quantity]) => {
      const unitPriceCents = prices.get(productId)
      if (unitPriceCents === undefined) throw new UnknownProduct(productId)
      return { productId, quantity, unitPriceCents }
    })
}

export function totalCentsOf(lines: readonly PricedLine[]): number {
  return lines.reduce((total, { quantity, unitPriceCents }) => total + quantity * unitPriceCents, 0)
}
