import { sql } from 'drizzle-orm'
import { Invention } from './goods.ts'
import { Random } from './random.ts'
import { customers, orderLines, orders, products, reviews, stock } from './schema.ts'
import type { ShopDatabase, ShopScopes } from './scopes.ts'

export interface SeedSize {
  readonly products: number
  readonly customers: number
  readonly reviews: number
  readonly orders: number
}

const WHOLE_SHOP: SeedSize = { products: 5_000, customers: 500, reviews: 15_000, orders: 2_000 }
const SEED = 20_250_101
const ROWS_PER_STATEMENT = 1_000

/** Fills an empty shop, always with the same goods. Returns whether there was anything to do. */
export function seedShop(scopes: ShopScopes, size: SeedSize = WHOLE_SHOP): Promise<boolean> {
  return scopes.run({ name: 'seed' }, (scope) =>
    scope.transaction(async () => {
      // Several instances may start at once: the others wait here, and find the shop full.
      await scope.db.execute(sql`select pg_advisory_xact_lock(hashtext('shop seed'))`)
      if ((await scope.db.$count(products)) > 0) return false
      await fill(scope.db, size, new Random(SEED))
      return true
    }),
  )
}

async function fill(db: ShopDatabase, size: SeedSize, random: Random): Promise<void> {
  const invention = new Invention(random)

  const goods = await inChunks(
    times(size.products, (number) => invention.product(number)),
    (rows) => db.insert(products).values(rows).returning({ id: products.id, priceCents: products.priceCents }),
  )
  const people = await inChunks(
    times(size.customers, (number) => invention.customer(number)),
    (rows) => db.insert(customers).values(rows).returning({ id: customers.id }),
  )
  await inChunks(
    times(size.reviews, () => ({
      productId: random.pick(goods).id,
      customerId: random.pick(people).id,
      ...invention.opinion(),
    })),
    (rows) => db.insert(reviews).values(rows).returning({ id: reviews.id }),
  )

  const baskets = times(size.orders, () => {
    const chosen = new Set(times(random.integer(1, 4), () => random.pick(goods)))
    return [...chosen].map((product) => ({ product, quantity: random.integer(1, 3) }))
  })
  const placed = await inChunks(
    baskets.map((lines) => ({
      customerId: random.pick(people).id,
      totalCents: lines.reduce((total, { product, quantity }) => total + product.priceCents * quantity, 0),
      createdAt: invention.moment(),
    })),
    (rows) => db.insert(orders).values(rows).returning({ id: orders.id }),
  )
  const lines = placed.flatMap(({ id: orderId }, index) =>
    (baskets[index] ?? []).map(({ product, quantity }) => ({
      orderId,
      productId: product.id,
      quantity,
      unitPriceCents: product.priceCents,
    })),
  )
  await inChunks(lines, (rows) => db.insert(orderLines).values(rows).returning({ orderId: orderLines.orderId }))

  const sold = new Map<number, number>()
  for (const { productId, quantity } of lines) sold.set(productId, (sold.get(productId) ?? 0) + quantity)
  await inChunks(
    goods.map(({ id: productId }) => {
      const quantity = random.integer(0, 60)
      return { productId, quantity, received: quantity + (sold.get(productId) ?? 0) }
    }),
    (rows) => db.insert(stock).values(rows).returning({ productId: stock.productId }),
  )
}

function times<Item>(count: number, make: (number: number) => Item): Item[] {
  return Array.from({ length: count }, (_, index) => make(index + 1))
}

/** A statement takes 65,535 parameters at most. */
async function inChunks<Row, Inserted>(
  rows: Row[],
  insert: (chunk: Row[]) => PromiseLike<Inserted[]>,
): Promise<Inserted[]> {
  const inserted: Inserted[] = []
  for (let start = 0; start < rows.length; start += ROWS_PER_STATEMENT) {
    inserted.push(...(await insert(rows.slice(start, start + ROWS_PER_STATEMENT))))
  }
  return inserted
}
