import { Readable } from 'node:stream'
import type { FastifyPluginAsync } from 'fastify'
import { csvLine } from '../csv.ts'
import type { ShopDatabase } from '../scopes.ts'

const ROWS_AT_ONCE = 500

// A report keeps a connection for as long as it is read. A few at once leave enough for those who buy.
const AT_ONCE = { max: 5, maxQueued: 50, maxWaitMs: 5_000 }

export const reportRoutes: FastifyPluginAsync = async (app) => {
  app.get(
    '/reports/orders.csv',
    { config: { scope: { priority: 'background', concurrency: AT_ONCE } } },
    async ({ scope: { db } }, reply) =>
      // The scope lasts until the response is closed, so the stream may go on reading after the handler has returned.
      // When the client goes away first, the stream is destroyed, which closes the cursor and gives the connection back.
      reply.type('text/csv; charset=utf-8').send(Readable.from(orderReport(db), { objectMode: false })),
  )
}

interface ReportRow {
  orderId: number
  orderedAt: string
  email: string
  sku: string
  quantity: number
  unitPriceCents: number
}

async function* orderReport(db: ShopDatabase): AsyncGenerator<string> {
  yield csvLine(['order', 'ordered at', 'customer', 'sku', 'quantity', 'unit price in cents'])
  const cursor = db.$client<ReportRow[]>`
    select orders.id as "orderId",
           to_char(orders.created_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as "orderedAt",
           customers.email,
           products.sku,
           order_lines.quantity,
           order_lines.unit_price_cents as "unitPriceCents"
      from orders
      join customers on customers.id = orders.customer_id
      join order_lines on order_lines.order_id = orders.id
      join products on products.id = order_lines.product_id
     order by orders.id, products.id`.cursor(ROWS_AT_ONCE)
  for await (const rows of cursor) {
    yield rows
      .map((row) => csvLine([row.orderId, row.orderedAt, row.email, row.sku, row.quantity, row.unitPriceCents]))
      .join('')
  }
}
