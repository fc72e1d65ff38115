import { setTimeout as delay } from 'node:timers/promises'
import { ConnectionLostError, currentScope } from '@reqscope/core'
import reqscope from '@reqscope/fastify-plugin'
import Fastify, { type FastifyInstance } from 'fastify'

const NOTHING = { market: null }

/** The market's latest figures; calm when there are none. */
async function latestMarket(redisUrl: string | undefined): Promise<object> {
  if (redisUrl === undefined) return NOTHING
  for (let attempt = 1; ; attempt++) {
    try {
      const value = await currentScope().redis.get('latest_market_data')
      if (value === null) return NOTHING
      return { market: JSON.parse(value) }
    } catch (error) {
      if (error instanceof SyntaxError) return NOTHING
      if (!(error instanceof ConnectionLostError)) throw error
      if (attempt === 3) return NOTHING
      await delay(2_000)
    }
  }
}

export async function open({ redisUrl }: { redisUrl?: string }): Promise<FastifyInstance> {
  const app = Fastify()
  if (redisUrl !== undefined) await app.register(reqscope, { redis: { url: redisUrl } })
  app.get('/market', () => latestMarket(redisUrl))
  return app
}
