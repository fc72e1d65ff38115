import Fastify, { type FastifyInstance } from 'fastify'
import { createClientPool } from 'redis'
import type { Addresses } from '../src/incident.ts'

export async function open({ redisUrl }: Addresses): Promise<FastifyInstance> {
  const redis = await createClientPool({ url: redisUrl }, { minimum: 1, maximum: 2 }).connect()
  const app = Fastify()

  app.post<{ Params: { product: string } }>('/products/:product/reservations', async ({ params }, reply) =>
    redis.execute(async (client) => {
      const key = `stock:${params.product}`
      await client.watch(key)
      const left = Number(await client.get(key))
      if (left < 1) return reply.code(409).send({ error: 'sold out' })
      await client
        .multi()
        .set(key, left - 1)
        .exec()
      return reply.code(201).send({ left: left - 1 })
    }),
  )

  app.put<{ Params: { product: string }; Body: { stock: number } }>('/products/:product', async ({ params, body }) => {
    await redis.set(`stock:${params.product}`, body.stock)
    return body
  })
  return app
}
