import rateLimit from '@fastify/rate-limit'
import Fastify from 'fastify'
import { Redis } from 'ioredis'
import { redisUrl, serve } from './answer.ts'

const app = Fastify()
await app.register(rateLimit, { global: false, redis: new Redis(redisUrl), nameSpace: `peer-${process.pid}-` })
const answer = async () => ({ hello: 'world' })
app.get('/allowed', { config: { rateLimit: { max: 1_000_000_000, timeWindow: 60_000 } } }, answer)
app.get('/refused', { config: { rateLimit: { max: 1, timeWindow: 3_600_000 } } }, answer)
await serve(app)
