import { defineJob } from '@reqscope/core/jobs'
import { eq } from 'drizzle-orm'
import { z } from 'zod'
import { stock } from '../schema.ts'
import type { ShopScopes } from '../scopes.ts'

/** Tells purchasing every night what has run out. */
export const stockCheck = defineJob({
  name: 'stock-check',
  queue: 'nightly',
  data: z.object({}),
  attempts: 5,
  backoff: 60_000,
  timeoutMs: 60_000,
  async run({ scope, id }) {
    const runOut = await scope.db.$count(stock, eq(stock.quantity, 0))
    await scope.mailer.send({
      key: `stock-${id.replaceAll(/[^\w-]/g, '-')}`,
      to: 'purchasing@example.com',
      subject: `${runOut} products have run out`,
      text: `Checked on ${new Date().toISOString()}.`,
    })
  },
})

/** The same schedule, however many processes say so. */
export async function scheduleStockCheck(scopes: ShopScopes): Promise<void> {
  const template = { name: stockCheck.name, data: {}, opts: { attempts: 5, backoff: 60_000 } }
  await scopes.jobs.queueOf(stockCheck).upsertJobScheduler('nightly-stock-check', { pattern: '0 3 * * *' }, template)
}
