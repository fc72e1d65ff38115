import reqscope from '@reqscope/fastify-plugin'
import Fastify, { type FastifyInstance } from 'fastify'
import type { Addresses } from '../src/incident.ts'

export async function open({ redisUrl }: Addresses): Promise<FastifyInstance> {
  const app = Fastify()
  await app.register(reqscope, { redis: { url: redisUrl, exclusive: { min: 1, max: 2 } } })

  app.post<{ Params: { product: string } }>('/products/:product/reservations', async ({ scope, params }, reply) => {
    const key = `stock:${params.product}`
    let left = 0
    const replies = await scope.redis.optimistic([key], async (tx) => {
      left = Number(await tx.get(key))
      return left < 1 ? tx.abandon() : tx.multi().set(key, left - 1)
    })
    if (replies === undefined) return reply.code(409).send({ error: 'sold out' })
    return reply.code(201).send({ left: left - 1 })
  })

  app.put<{ Params: { product: string }; Body: { stock: number } }>(
    '/products/:product',
    async ({ scope, params, body }) => {
      await scope.redis.set(`stock:${params.product}`, body.stock)
      return body
    },
  )
  return app
}
