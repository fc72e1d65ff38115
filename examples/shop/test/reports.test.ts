import { get, type IncomingMessage } from 'node:http'
import { describe, expect, it } from 'vitest'
import { testShop } from './shop.ts'

const { app, scopes, sql } = await testShop()

describe('GET /reports/orders.csv', () => {
  it('has a line for every order line, in order, and gives its connection back', async () => {
    await sql`update customers set email = 'o''neill, "jack"@example.com' where id = (select customer_id from orders where id = 1)`
    const response = await app.inject('/reports/orders.csv')
    expect(response.statusCode).toBe(200)
    expect(response.headers['content-type']).toBe('text/csv; charset=utf-8')
    const [head, ...lines] = response.body.split('\r\n')
    expect(head).toBe('order,ordered at,customer,sku,quantity,unit price in cents')
    expect(lines.pop()).toBe('')
    const rows = await sql`
      select order_id, sku, order_lines.quantity, unit_price_cents from order_lines join products on products.id = product_id
       order by order_id, product_id`
    expect(lines.map((line) => [line.split(',')[0], ...line.split(',').slice(-3)].join())).toEqual(
      rows.map((row) => [row.order_id, row.sku, row.quantity, row.unit_price_cents].join()),
    )
    expect(lines[0]).toMatch(/^1,2025-\d\d-\d\dT\d\d:\d\d:00Z,"o'neill, ""jack""@example.com",/)
    await expect.poll(() => scopes.snapshot()).toMatchObject({ leases: [], openScopes: { total: 0 } })
  })

  it('stops reading and gives its connection back when the client goes away in the middle', async () => {
    await sql`
      with added as (
        insert into orders (customer_id, total_cents) select 1, 100 from generate_series(1, 200000) returning id
      ) insert into order_lines select id, 1, 1, 100 from added`
    const url = await app.listen({ port: 0, host: '127.0.0.1' })
    const response = await new Promise<IncomingMessage>((resolve, reject) => {
      get(`${url}/reports/orders.csv`, { agent: false }, resolve).once('error', reject)
    })
    // Nobody reads the response, so the report stands still with its cursor open.
    await expect
      .poll(() => scopes.snapshot().leases)
      .toMatchObject([{ state: 'cursor', scope: { name: 'GET /reports/orders.csv' } }])

    response.destroy()
    await expect.poll(() => scopes.snapshot()).toMatchObject({ leases: [], openScopes: { total: 0 } })
    expect(
      await sql`select state from pg_stat_activity where application_name = 'shop' and datname = current_database() and state <> 'idle'`,
    ).toEqual([])
    expect((await app.inject('/products/1')).statusCode).toBe(200)
  })
})
