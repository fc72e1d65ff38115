import { integer, pgTable, text } from 'drizzle-orm/pg-core'

export const products = pgTable('products', {
  id: integer().primaryKey(),
  name: text().notNull(),
  price: integer().notNull(),
})

export const schema = { products }

export const PRODUCTS = 1_000

let last = 0

/** Another one each time, the same sequence for every candidate. */
export function nextId(): number {
  last = (last * 1_103_515_245 + 12_345) % 2_147_483_648
  return (last % PRODUCTS) + 1
}
