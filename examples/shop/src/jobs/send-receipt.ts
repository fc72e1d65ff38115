import { defineJob } from '@reqscope/core/jobs'
import { eq } from 'drizzle-orm'
import { z } from 'zod'
import { orders } from '../schema.ts'

/** Enqueued in the order's transaction, so there is a receipt for every order and none for what was rolled back. */
export const sendReceipt = defineJob({
  name: 'send-receipt',
  queue: 'mail',
  data: z.object({ orderId: z.number().int() }),
  attempts: 50,
  backoff: 200,
  timeoutMs: 10_000,
  async run({ data, scope }) {
    const order = await scope.db.query.orders.findFirst({
      where: eq(orders.id, data.orderId),
      with: { customer: true, lines: { with: { product: { columns: { name: true } } } } },
    })
    if (order === undefined) throw new Error(`Order ${data.orderId} is not there.`)
    const lines = order.lines.map(
      ({ quantity, unitPriceCents, product }) => `${quantity} × ${product.name}: ${money(quantity * unitPriceCents)}`,
    )
    await scope.mailer.send({
      key: `receipt-${order.id}`,
      to: order.customer.email,
      subject: `Your order ${order.id}`,
      text: [`Dear ${order.customer.name},`, '', ...lines, '', `Total: ${money(order.totalCents)}`].join('\r\n'),
    })
  },
})

function money(cents: number): string {
  return `${(cents / 100).toFixed(2)} €`
}
