import { describe, expect, it } from 'vitest'
import { MAX_CONNECTIONS } from '../src/scopes.ts'
import { testShop } from './shop.ts'

const { app, sql } = await testShop()
const quote = (country = 'DE', lines = [{ productId: 1, quantity: 2 }]) =>
  app.inject({ method: 'POST', url: '/quotes', payload: { country, lines } })

describe('POST /quotes', () => {
  it('adds the tax of the country to the prices and says what is available', async () => {
    await sql`update products set price_cents = 1000 where id in (1, 2)`
    await sql`update stock set received = received - quantity + 1, quantity = 1 where product_id in (1, 2)`
    const response = await quote('DE', [
      { productId: 2, quantity: 1 },
      { productId: 1, quantity: 2 },
    ])
    expect(response.json()).toEqual({
      netCents: 3_000,
      taxCents: 570,
      totalCents: 3_570,
      lines: [
        { productId: 1, quantity: 2, unitPriceCents: 1_000, available: false },
        { productId: 2, quantity: 1, unitPriceCents: 1_000, available: true },
      ],
    })
  })

  it('holds no connection while it waits for the tax service', async () => {
    // Were one held for the 100 ms of each quote, ten connections would need 3,000 ms for three hundred quotes.
    const startedAt = performance.now()
    const responses = await Promise.all(Array.from({ length: 30 * MAX_CONNECTIONS }, () => quote()))
    expect(responses.every(({ statusCode }) => statusCode === 200)).toBe(true)
    expect(performance.now() - startedAt).toBeLessThan(3_000)
  })

  it('refuses a product that is not there', async () => {
    expect((await quote('DE', [{ productId: 4711, quantity: 1 }])).statusCode).toBe(422)
  })
})
