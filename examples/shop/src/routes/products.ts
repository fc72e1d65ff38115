import type { FastifyPluginAsyncJsonSchemaToTs } from '@fastify/type-provider-json-schema-to-ts'
import { asc, desc, eq, sql } from 'drizzle-orm'
import { ProductNotFound } from '../errors.ts'
import { cached } from '../page-cache.ts'
import { products, reviews, stock } from '../schema.ts'

const PAGE_SIZE = 20

const listing = {
  type: 'object',
  properties: {
    search: { type: 'string', maxLength: 100 },
    page: { type: 'integer', minimum: 1, maximum: 10_000, default: 1 },
  },
} as const

const oneProduct = {
  type: 'object',
  required: ['id'],
  properties: { id: { type: 'integer', minimum: 1, maximum: 2_147_483_647 } },
} as const

export const productRoutes: FastifyPluginAsyncJsonSchemaToTs = async (app) => {
  app.get('/products', { schema: { querystring: listing } }, async ({ query: { search, page }, scope: { db } }) => {
    const matching = search ? textMatches(search) : undefined
    const [total, items] = await Promise.all([
      db.$count(products, matching),
      db
        .select({
          id: products.id,
          sku: products.sku,
          name: products.name,
          priceCents: products.priceCents,
          inStock: stock.quantity,
        })
        .from(products)
        .innerJoin(stock, eq(stock.productId, products.id))
        .where(matching)
        .orderBy(asc(products.id))
        .limit(PAGE_SIZE)
        .offset((page - 1) * PAGE_SIZE),
    ])
    return { page, pages: Math.ceil(total / PAGE_SIZE), total, items }
  })

  app.get('/products/:id', { schema: { params: oneProduct } }, async ({ params: { id }, scope }) =>
    cached(scope, `product:${id}`, async () => {
      const product = await scope.db.query.products.findFirst({
        where: eq(products.id, id),
        with: {
          stock: { columns: { quantity: true } },
          reviews: {
            columns: { id: true, stars: true, text: true, createdAt: true },
            with: { customer: { columns: { name: true } } },
            orderBy: desc(reviews.createdAt),
            limit: 10,
          },
        },
      })
      if (product === undefined) throw new ProductNotFound(id)
      return product
    }),
  )
}

/** Has to be the expression of the index `products_text`. */
function textMatches(search: string) {
  return sql`to_tsvector('english', ${products.name} || ' ' || ${products.description}) @@ websearch_to_tsquery('english', ${search})`
}
