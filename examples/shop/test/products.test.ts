import { describe, expect, it } from 'vitest'
import { testShop } from './shop.ts'

const { app, sql } = await testShop()
const get = async (url: string) => {
  const response = await app.inject(url)
  return { status: response.statusCode, body: response.json() }
}

describe('GET /products', () => {
  it('pages through all products, each of them once', async () => {
    const pages = await Promise.all([1, 2, 3, 4].map(async (page) => (await get(`/products?page=${page}`)).body))
    expect(pages.map(({ items }) => items.length)).toEqual([20, 20, 10, 0])
    expect(pages.map(({ total, pages }) => [total, pages])).toEqual(Array(4).fill([50, 3]))
    const ids = pages.flatMap(({ items }) => items.map(({ id }: { id: number }) => id))
    expect(new Set(ids).size).toBe(50)
    expect(ids).toEqual(ids.toSorted((one: number, other: number) => one - other))
  })

  it('finds words in names and descriptions, in any form', async () => {
    await sql`update products set name = 'Zinc Bathtub', description = 'For swimmers.' where id = 7`
    for (const search of ['bathtubs', 'swimmer zinc', 'BATHTUB']) {
      const { body } = await get(`/products?search=${encodeURIComponent(search)}`)
      expect(body).toMatchObject({ total: 1, items: [{ id: 7, name: 'Zinc Bathtub' }] })
    }
  })

  it('takes a search for what it is: text', async () => {
    const { status, body } = await get(`/products?search=${encodeURIComponent(`'); drop table products; --`)}`)
    expect([status, body.total]).toEqual([200, 0])
  })

  it.each(['0', '-1', 'two'])('refuses page %s', async (page) => {
    expect((await get(`/products?page=${page}`)).status).toBe(400)
  })
})

describe('GET /products/:id', () => {
  it('shows a product with its stock and its newest reviews first', async () => {
    await sql`insert into reviews (product_id, customer_id, stars, text) select 3, 1, 5, 'Review ' || n from generate_series(1, 12) n`
    await sql`update reviews set created_at = '2030-01-01'::timestamptz + id * interval '1 day' where text like 'Review %'`
    const { status, body } = await get('/products/3')
    expect(status).toBe(200)
    expect(body).toMatchObject({ id: 3, stock: { quantity: expect.any(Number) } })
    expect(body.reviews.map(({ text }: { text: string }) => text)).toEqual(
      [12, 11, 10, 9, 8, 7, 6, 5, 4, 3].map((number) => `Review ${number}`),
    )
    expect(body.reviews[0].customer.name).toEqual(expect.any(String))
  })

  it('answers 404 for a product that is not there', async () => {
    expect(await get('/products/4711')).toMatchObject({ status: 404, body: { code: 'SHOP_PRODUCT_NOT_FOUND' } })
  })
})
