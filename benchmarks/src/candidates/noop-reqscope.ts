import { createScopes } from '@reqscope/core'
import { postgres } from '@reqscope/core/postgres'
import reqscope from '@reqscope/fastify-plugin'
import Fastify from 'fastify'
import { databaseUrl, serve } from './answer.ts'

const app = Fastify()
await app.register(reqscope, { scopes: createScopes({ resources: { db: postgres({ url: databaseUrl }) } }) })
app.get('/', async () => ({ hello: 'world' }))
await serve(app)
