import { relations, sql } from 'drizzle-orm'
import { check, index, integer, pgTable, primaryKey, text, timestamp, uniqueIndex } from 'drizzle-orm/pg-core'

const id = () => integer('id').primaryKey().generatedAlwaysAsIdentity()
const createdAt = () => timestamp('created_at', { withTimezone: true }).notNull().defaultNow()

export const products = pgTable(
  'products',
  {
    id: id(),
    sku: text('sku').notNull().unique(),
    name: text('name').notNull(),
    description: text('description').notNull(),
    priceCents: integer('price_cents').notNull(),
  },
  (table) => [
    index('products_text').using('gin', sql`to_tsvector('english', ${table.name} || ' ' || ${table.description})`),
    check('products_price_positive', sql`${table.priceCents} > 0`),
  ],
)

export const customers = pgTable(
  'customers',
  {
    id: id(),
    name: text('name').notNull(),
    email: text('email').notNull(),
    createdAt: createdAt(),
  },
  (table) => [uniqueIndex('customers_email').on(sql`lower(${table.email})`)],
)

/** What was ever received of a product, and what is left of it. */
export const stock = pgTable(
  'stock',
  {
    productId: integer('product_id')
      .primaryKey()
      .references(() => products.id),
    received: integer('received').notNull(),
    quantity: integer('quantity').notNull(),
  },
  (table) => [check('stock_quantity_possible', sql`${table.quantity} between 0 and ${table.received}`)],
)

export const orders = pgTable(
  'orders',
  {
    id: id(),
    customerId: integer('customer_id')
      .notNull()
      .references(() => customers.id),
    totalCents: integer('total_cents').notNull(),
    createdAt: createdAt(),
  },
  (table) => [index('orders_customer').on(table.customerId)],
)

export const orderLines = pgTable(
  'order_lines',
  {
    orderId: integer('order_id')
      .notNull()
      .references(() => orders.id, { onDelete: 'cascade' }),
    productId: integer('product_id')
      .notNull()
      .references(() => products.id),
    quantity: integer('quantity').notNull(),
    unitPriceCents: integer('unit_price_cents').notNull(),
  },
  (table) => [
    primaryKey({ columns: [table.orderId, table.productId] }),
    index('order_lines_product').on(table.productId),
    check('order_lines_quantity_positive', sql`${table.quantity} > 0`),
  ],
)

export const reviews = pgTable(
  'reviews',
  {
    id: id(),
    productId: integer('product_id')
      .notNull()
      .references(() => products.id),
    customerId: integer('customer_id')
      .notNull()
      .references(() => customers.id),
    stars: integer('stars').notNull(),
    text: text('text').notNull(),
    createdAt: createdAt(),
  },
  (table) => [
    index('reviews_newest_of_product').on(table.productId, table.createdAt),
    index('reviews_customer').on(table.customerId),
    check('reviews_stars_possible', sql`${table.stars} between 1 and 5`),
  ],
)

/** What a customer gets for signing up. */
export const vouchers = pgTable('vouchers', {
  code: text('code').primaryKey(),
  customerId: integer('customer_id')
    .notNull()
    .unique()
    .references(() => customers.id),
  cents: integer('cents').notNull(),
})

/** What was said in a chat with the support, numbered without gaps. */
export const supportMessages = pgTable(
  'support_messages',
  {
    sessionId: text('session_id').notNull(),
    number: integer('number').notNull(),
    author: text('author').notNull(),
    text: text('text').notNull(),
    createdAt: createdAt(),
  },
  (table) => [primaryKey({ columns: [table.sessionId, table.number] })],
)

export const productRelations = relations(products, ({ many, one }) => ({
  stock: one(stock, { fields: [products.id], references: [stock.productId] }),
  reviews: many(reviews),
}))

export const reviewRelations = relations(reviews, ({ one }) => ({
  product: one(products, { fields: [reviews.productId], references: [products.id] }),
  customer: one(customers, { fields: [reviews.customerId], references: [customers.id] }),
}))

export const orderRelations = relations(orders, ({ many, one }) => ({
  customer: one(customers, { fields: [orders.customerId], references: [customers.id] }),
  lines: many(orderLines),
}))

export const orderLineRelations = relations(orderLines, ({ one }) => ({
  order: one(orders, { fields: [orderLines.orderId], references: [orders.id] }),
  product: one(products, { fields: [orderLines.productId], references: [products.id] }),
}))
