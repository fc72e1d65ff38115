import { describe, expect, it } from 'vitest'
import { testShop } from './shop.ts'

const { app, sql } = await testShop()
const signUp = (email: string) => app.inject({ method: 'POST', url: '/signup', payload: { name: 'Ada', email } })

describe('POST /signup', () => {
  it('makes a customer with a welcome voucher', async () => {
    const response = await signUp('ada@example.com')
    expect(response.statusCode).toBe(201)
    const { id, voucher } = response.json()
    expect(
      await sql`select email, code, cents from customers join vouchers on customer_id = customers.id where customers.id = ${id}`,
    ).toEqual([{ email: 'ada@example.com', ...voucher }])
  })

  it('answers 409 to an email address that is taken, in whatever case', async () => {
    await signUp('grace@example.com')
    const response = await signUp('Grace@Example.com')
    expect([response.statusCode, response.json().code]).toEqual([409, 'SHOP_EMAIL_TAKEN'])
  })

  it('lets one of many win who sign up with the same address at the same time', async () => {
    const statuses = await Promise.all(
      Array.from({ length: 20 }, async () => (await signUp('ken@example.com')).statusCode),
    )
    expect(statuses.toSorted()).toEqual([201, ...Array(19).fill(409)])
    expect(await sql`select count(*)::int from customers where email = 'ken@example.com'`).toEqual([{ count: 1 }])
  })

  it('leaves no customer without a voucher when the voucher fails', async () => {
    await sql`alter table vouchers add constraint broken check (cents > 1000) not valid`
    const response = await signUp('barbara@example.com')
    await sql`alter table vouchers drop constraint broken`
    expect(response.statusCode).toBe(500)
    expect(await sql`select from customers where email = 'barbara@example.com'`).toEqual([])
  })

  it('limits the tries with one address, and no other', async () => {
    const statuses = []
    for (let attempt = 0; attempt < 31; attempt++) statuses.push((await signUp('edsger@example.com')).statusCode)
    expect(statuses).toEqual([201, ...Array(29).fill(409), 429])
    expect((await signUp('tony@example.com')).statusCode).toBe(201)
  })

  it('refuses what is no email address', async () => {
    expect((await signUp('ada')).statusCode).toBe(400)
  })
})
