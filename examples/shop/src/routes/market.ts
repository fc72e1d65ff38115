import type { FastifyPluginAsyncJsonSchemaToTs } from '@fastify/type-provider-json-schema-to-ts'
import { redisOf } from '../scopes.ts'

const LATEST = 'latest_market_data'
const KEPT_FOR_SECONDS = 3_600

const prices = {
  type: 'object',
  required: ['prices'],
  additionalProperties: false,
  properties: { prices: { type: 'object', additionalProperties: { type: 'number' }, maxProperties: 100 } },
} as const

/** The live market: a feed puts the latest prices into Redis, and everybody's dashboard asks for them all the time. */
export const marketRoutes: FastifyPluginAsyncJsonSchemaToTs = async (app) => {
  app.put('/market', { schema: { body: prices } }, async ({ body, scope }) => {
    await redisOf(scope).set(LATEST, JSON.stringify({ ...body, at: new Date().toISOString() }), 'EX', KEPT_FOR_SECONDS)
    return { ok: true }
  })

  // No client is opened here, so none is left behind, whichever way it ends.
  app.get('/market', async ({ scope }) => {
    const text = await redisOf(scope).get(LATEST)
    if (text === null) return { available: false, reason: 'there are no prices yet' }
    try {
      return { available: true, ...(JSON.parse(text) as object) }
    } catch {
      scope.log.warn({ key: LATEST }, 'the market data is not JSON')
      return { available: false, reason: 'the prices that came in last could not be read' }
    }
  })
}
