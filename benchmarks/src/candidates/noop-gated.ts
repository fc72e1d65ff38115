import { createScopes } from '@reqscope/core'
import { postgres } from '@reqscope/core/postgres'
import reqscope from '@reqscope/fastify-plugin'
import Fastify from 'fastify'
import { databaseUrl, serve } from './answer.ts'

const app = Fastify()
const scopes = createScopes({ resources: { db: postgres({ url: databaseUrl }) } })
await app.register(reqscope, { scopes, adaptive: { initial: 1_000 } })
const concurrency = { max: 1_000, maxQueued: 100 }
app.get('/', { config: { scope: { concurrency } } }, async () => ({ hello: 'world' }))
await serve(app)
