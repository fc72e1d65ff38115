import { createScopes } from '@reqscope/core'
import { redis } from '@reqscope/core/redis'
import reqscope from '@reqscope/fastify-plugin'
import Fastify from 'fastify'
import { redisUrl, serve } from './answer.ts'

const app = Fastify()
await app.register(reqscope, {
  scopes: createScopes({ resources: { redis: redis({ url: redisUrl }) } }),
})
const many = 1_000_000
const run = String(process.pid)
const windows = [60_000, 3_600_000, 86_400_000]
const limited = (rateLimit: object | object[]) => ({ config: { scope: { rateLimit: rateLimit as never } } })
const answer = async () => ({ hello: 'world' })
app.get('/allowed', limited({ limit: many, windowMs: 60_000, group: `${run}-one` }), answer)
app.get('/three', limited(windows.map((windowMs) => ({ limit: many, windowMs, group: `${run}-three` }))), answer)
app.get('/refused', limited({ limit: 1, windowMs: 3_600_000, group: `${run}-none` }), answer)
await serve(app)
