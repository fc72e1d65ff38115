import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { stockCheck } from '../src/jobs/stock-check.ts'
import { testShop } from './shop.ts'

const { app, scopes, sql, mailFolder } = await testShop()
await app.ready()

/** The first mail whose name matches, once it is there. */
async function mail(name: RegExp): Promise<string> {
  for (let left = 500; left > 0; left--) {
    const found = (await readdir(mailFolder)).find((file) => name.test(file))
    if (found !== undefined) return readFile(join(mailFolder, found), 'utf8')
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
  throw new Error(`no mail ${name} came`)
}

const post = (url: string, payload: object) => app.inject({ method: 'POST', url, payload })

it('mails a receipt for an order, and none for one that was rolled back', async () => {
  const refused = await post('/orders', { customerId: 1, lines: [{ productId: 1, quantity: 1_000 }] })
  expect(refused.statusCode).toBeGreaterThanOrEqual(400)
  const order = await post('/orders', { customerId: 1, lines: [{ productId: 2, quantity: 2 }] })
  expect(order.statusCode).toBe(201)
  const { id, totalCents } = order.json() as { id: number; totalCents: number }
  const receipt = await mail(new RegExp(`^receipt-${id}\\.eml$`))
  expect(receipt).toContain(`Subject: Your order ${id}`)
  expect(receipt).toContain(`Total: ${(totalCents / 100).toFixed(2)} €`)
  expect((await readdir(mailFolder)).filter((name) => name.startsWith('receipt-'))).toHaveLength(1)
})

it('tells purchasing of a new price through a scope of the job’s own, and leaves no transaction open', async () => {
  const [before] = await sql<{ price: number }[]>`select price_cents as price from products where id = 3`
  const answer = await post('/webhooks/products', { productId: 3, priceCents: 4_711 })
  expect(answer.statusCode).toBe(202)
  const text = await mail(/^product-3-/)
  expect(text).toContain(`It was ${before?.price} cents and is 4711 now.`)
  const [idle] = await sql<{ count: number }[]>`
    select count(*)::int from pg_stat_activity where state like 'idle in transaction%' and datname = current_database()`
  expect(idle?.count).toBe(0)
})

it('answers 404 to a webhook for a product that is not there, and enqueues nothing', async () => {
  expect((await post('/webhooks/products', { productId: 999_999, priceCents: 1 })).statusCode).toBe(404)
})

it('checks the stock every night, on a schedule that is there once', async () => {
  const schedulers = await scopes.jobs.queueOf(stockCheck).getJobSchedulers()
  expect(schedulers).toMatchObject([{ key: 'nightly-stock-check', pattern: '0 3 * * *' }])
  await scopes.run({ name: 'test' }, (scope) => scope.enqueue(stockCheck, {}))
  expect(await mail(/^stock-/)).toContain('Subject: 0 products have run out')
})
