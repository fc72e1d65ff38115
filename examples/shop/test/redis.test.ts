import { describe, expect, it } from 'vitest'
import { testShop } from './shop.ts'

const { app, sql, redis, scopes } = await testShop()
const page = async (id: number) => (await app.inject(`/products/${id}`)).json()

describe('cached product pages', () => {
  it('come from the cache while they are fresh', async () => {
    const first = await page(1)
    await sql`update products set name = 'Changed' where id = 1`
    expect(await page(1)).toEqual(first)
  })

  it.each([
    ['missing', null],
    ['stale', JSON.stringify({ cachedAt: Date.now() - 60_000, page: { id: 2, name: 'Old' } })],
    ['not JSON', '{"cachedAt":'],
    ['something else', '42'],
  ])('are read anew where what is cached is %s, and are whole again', async (_what, value) => {
    if (value === null) await redis.del('product:2')
    else await redis.set('product:2', value)
    const fresh = await page(2)
    expect(fresh).toMatchObject({ id: 2, name: expect.not.stringMatching('Old'), reviews: expect.any(Array) })
    expect(JSON.parse((await redis.get('product:2')) ?? '')).toMatchObject({ page: { id: 2, name: fresh.name } })
  })

  it('do not keep what is not there', async () => {
    expect((await app.inject('/products/4711')).statusCode).toBe(404)
    expect(await redis.exists('product:4711')).toBe(0)
  })
})

describe('POST /reservations', () => {
  const reserve = (productId: number, quantity = 1) =>
    app.inject({ method: 'POST', url: '/reservations', payload: { productId, quantity } })

  it('never promises more than there is, however many ask at once', async () => {
    await sql`update stock set quantity = 7 where product_id = 3`
    const answers = await Promise.all(Array.from({ length: 40 }, () => reserve(3)))
    const accepted = answers.filter(({ statusCode }) => statusCode === 201).length
    expect(new Set(answers.map(({ statusCode }) => statusCode))).toEqual(new Set([201, 409]))
    expect(Number(await redis.get('reserved:3'))).toBe(accepted)
    expect(accepted).toBeGreaterThan(0)
    expect(accepted).toBeLessThanOrEqual(7)
    expect(scopes.snapshot().leases).toEqual([])
  })

  it('refuses what is not there', async () => {
    expect((await reserve(4711)).statusCode).toBe(422)
    expect((await reserve(4, 100_000)).statusCode).toBe(400)
  })
})

describe('GET /market', () => {
  const market = async () => (await app.inject('/market')).json()

  it('says calmly that there is nothing, or nothing to read, and shows what there is', async () => {
    expect(await market()).toMatchObject({ available: false })
    await redis.set('latest_market_data', 'not JSON')
    expect(await market()).toMatchObject({ available: false })
    await app.inject({ method: 'PUT', url: '/market', payload: { prices: { oak: 12.5 } } })
    expect(await market()).toMatchObject({ available: true, prices: { oak: 12.5 } })
  })
})
