import { createScopes } from '@reqscope/core'
import { postgres } from '@reqscope/core/postgres'
import { reqscope, reqscopeErrors } from '@reqscope/express-adapter'
import express from 'express'
import { databaseUrl, serveListener } from './answer.ts'

const scopes = createScopes({ resources: { db: postgres({ url: databaseUrl }) } })
await scopes.start()
const app = express()
app.use(reqscope({ scopes }))
app.get('/', async (_request, response) => void response.json({ hello: 'world' }))
app.use(reqscopeErrors())
await serveListener(app)
