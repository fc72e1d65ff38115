import { expect, it } from 'vitest'
import { testShop } from './shop.ts'

const { app } = await testShop()
const write = (session: string, author: string, text: string) =>
  app.inject({ method: 'POST', url: `/support/${session}/messages`, payload: { author, text } })

it('numbers the messages of both sides without gaps, however many come at once', async () => {
  const answers = await Promise.all(
    Array.from({ length: 20 }, (_, index) => write('s1', index % 2 ? 'customer' : 'support', `message ${index}`)),
  )
  expect(answers.map(({ statusCode }) => statusCode)).toEqual(answers.map(() => 201))
  const messages = (await app.inject('/support/s1/messages')).json() as { number: number; text: string }[]
  expect(messages.map(({ number }) => number)).toEqual(answers.map((_, index) => index + 1))
  expect(new Set(messages.map(({ text }) => text)).size).toBe(20)
})

it('refuses a message of somebody else', async () => {
  expect((await write('s2', 'nobody', 'hello')).statusCode).toBe(400)
})
