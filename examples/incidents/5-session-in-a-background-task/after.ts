import { setTimeout as delay } from 'node:timers/promises'
import { defineJob } from '@reqscope/core/jobs'
import reqscope from '@reqscope/fastify-plugin'
import Fastify, { type FastifyInstance } from 'fastify'
import { z } from 'zod'
import type { Addresses } from '../src/incident.ts'
import { createIncidentScopes } from '../src/scopes.ts'

/** Tells the search index what has changed; it takes a while. */
const updateIndex = defineJob({
  name: 'update-index',
  data: z.object({ productId: z.number() }),
  async run({ data, scope }) {
    const { $client: sql } = scope.db
    await delay(20)
    await sql`select name from incident_products where id = ${data.productId}`
    await delay(20)
    await sql`update incident_products set indexed_at = now() where id = ${data.productId}`
  },
})

export async function open(addresses: Addresses): Promise<FastifyInstance> {
  const scopes = createIncidentScopes(addresses)
  const app = Fastify()
  await app.register(reqscope, { scopes })
  await scopes.work([updateIndex])

  app.post<{ Params: { id: string } }>(
    '/webhooks/products/:id',
    { config: { scope: { transaction: true } } },
    async ({ scope, params }) => {
      const productId = Number(params.id)
      await scope.db.$client`update incident_products set name = 'Tea' where id = ${productId}`
      await scope.enqueue(updateIndex, { productId })
      return { accepted: true }
    },
  )
  return app
}
