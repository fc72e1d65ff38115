import Fastify, { type FastifyReply, type FastifyRequest } from 'fastify'
import { Redis } from 'ioredis'
import { RateLimiterRedis, type RateLimiterRes } from 'rate-limiter-flexible'
import { redisUrl, serve } from './answer.ts'

const app = Fastify()
const storeClient = new Redis(redisUrl, { enableOfflineQueue: false, lazyConnect: true })
await storeClient.connect()

/** As its documentation has it: in a hook, with headers, and those who have used up their points blocked in memory. */
function limited(points: number, duration: number) {
  const limiter = new RateLimiterRedis({
    storeClient,
    points,
    duration,
    keyPrefix: `flexible-${process.pid}-${points}`,
    inMemoryBlockOnConsumed: points,
  })
  const headersOf = ({ msBeforeNext, remainingPoints }: RateLimiterRes) => ({
    'x-ratelimit-limit': points,
    'x-ratelimit-remaining': remainingPoints,
    'x-ratelimit-reset': Math.ceil(msBeforeNext / 1_000),
  })
  return async (request: FastifyRequest, reply: FastifyReply) => {
    try {
      reply.headers(headersOf(await limiter.consume(request.ip)))
    } catch (refused) {
      if (refused instanceof Error) throw refused
      const { msBeforeNext } = refused as RateLimiterRes
      return reply
        .code(429)
        .headers(headersOf(refused as RateLimiterRes))
        .header('retry-after', Math.ceil(msBeforeNext / 1_000))
        .send({ statusCode: 429, error: 'Too Many Requests', message: 'Rate limit exceeded' })
    }
  }
}

const answer = async () => ({ hello: 'world' })
app.get('/allowed', { onRequest: limited(1_000_000_000, 60) }, answer)
app.get('/refused', { onRequest: limited(1, 3_600) }, answer)
await serve(app)
