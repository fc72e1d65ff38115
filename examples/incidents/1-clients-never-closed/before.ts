import { setTimeout as delay } from 'node:timers/promises'
import Fastify, { type FastifyInstance } from 'fastify'
import { Redis } from 'ioredis'

const NOTHING = { market: null }

/** The market's latest figures; calm when there are none. */
async function latestMarket(redisUrl: string | undefined): Promise<object> {
  if (redisUrl === undefined) return NOTHING
  for (let attempt = 1; ; attempt++) {
    try {
      const redis = new Redis(redisUrl)
      const value = await redis.get('latest_market_data')
      if (value === null) return NOTHING
      const market = JSON.parse(value)
      await redis.quit()
      return { market }
    } catch (error) {
      if (error instanceof SyntaxError || attempt === 3) return NOTHING
      await delay(2_000)
    }
  }
}

export function open({ redisUrl }: { redisUrl?: string }): FastifyInstance {
  const app = Fastify()
  app.get('/market', () => latestMarket(redisUrl))
  return app
}
