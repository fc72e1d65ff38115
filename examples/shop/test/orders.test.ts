import { describe, expect, it, vi } from 'vitest'
import { testShop } from './shop.ts'

const { app, scopes, sql } = await testShop()
const order = (lines: { productId: number; quantity: number }[], customerId = 1) =>
  app.inject({ method: 'POST', url: '/orders', payload: { customerId, lines } })
const stocked = (productId: number, quantity: number) =>
  sql`update stock set received = received - quantity + ${quantity}, quantity = ${quantity} where product_id = ${productId}`
const everything = () => sql`
  select (select jsonb_agg(stock order by product_id) from stock) as stock,
         (select count(*) from orders) as orders, (select count(*) from order_lines) as lines`

describe('POST /orders', () => {
  it('takes the stock and writes the order with its lines', async () => {
    await stocked(1, 5)
    await stocked(2, 5)
    const response = await order([
      { productId: 2, quantity: 2 },
      { productId: 1, quantity: 1 },
      { productId: 2, quantity: 1 },
    ])
    expect(response.statusCode).toBe(201)
    const { id, totalCents } = response.json()
    expect(await sql`select product_id, quantity from order_lines where order_id = ${id} order by 1`).toEqual([
      { product_id: 1, quantity: 1 },
      { product_id: 2, quantity: 3 },
    ])
    expect(await sql`select quantity from stock where product_id in (1, 2) order by product_id`).toEqual([
      { quantity: 4 },
      { quantity: 2 },
    ])
    const [total] =
      await sql`select sum(quantity * unit_price_cents)::int as cents from order_lines where order_id = ${id}`
    expect(totalCents).toBe(total?.cents)
  })

  it('answers 409 when one of its products is out of stock, and changes nothing', async () => {
    await stocked(3, 10)
    await stocked(4, 1)
    const before = await everything()
    const response = await order([
      { productId: 3, quantity: 1 },
      { productId: 4, quantity: 2 },
    ])
    expect([response.statusCode, response.json().code]).toEqual([409, 'SHOP_OUT_OF_STOCK'])
    expect(await everything()).toEqual(before)
  })

  it('sells the last pieces once, however many want them at the same time', async () => {
    await stocked(5, 7)
    const statuses = await Promise.all(
      Array.from({ length: 40 }, async () => (await order([{ productId: 5, quantity: 1 }])).statusCode),
    )
    expect(statuses.filter((status) => status === 201)).toHaveLength(7)
    expect(statuses.filter((status) => status === 409)).toHaveLength(33)
    expect(await sql`select quantity from stock where product_id = 5`).toEqual([{ quantity: 0 }])
  })

  it('does not deadlock when orders want the same products in opposite directions', async () => {
    await stocked(6, 100)
    await stocked(7, 100)
    const lines = [
      { productId: 6, quantity: 1 },
      { productId: 7, quantity: 1 },
    ]
    const responses = await Promise.all(
      Array.from({ length: 40 }, (_, index) => order(index % 2 === 0 ? lines : lines.toReversed())),
    )
    expect(new Set(responses.map(({ statusCode }) => statusCode))).toEqual(new Set([201]))
  })

  it('refuses customers and products that are not there, and changes nothing', async () => {
    await stocked(8, 10)
    const before = await everything()
    const noCustomer = await order([{ productId: 8, quantity: 1 }], 4711)
    const noProduct = await order([
      { productId: 8, quantity: 1 },
      { productId: 4711, quantity: 1 },
    ])
    expect([noCustomer.statusCode, noProduct.statusCode]).toEqual([422, 422])
    expect(await everything()).toEqual(before)
  })

  it.each([[[]], [[{ productId: 1, quantity: 0 }]], [[{ productId: 'one', quantity: 1 }]]])(
    'refuses the lines %j',
    async (lines) => {
      const response = await app.inject({ method: 'POST', url: '/orders', payload: { customerId: 1, lines } })
      expect(response.statusCode).toBe(400)
    },
  )

  it('leaves no lease out, once the receipts are mailed', async () => {
    await vi.waitFor(() => expect(scopes.snapshot()).toMatchObject({ leases: [], openScopes: { total: 0 } }), 10_000)
  })
})
