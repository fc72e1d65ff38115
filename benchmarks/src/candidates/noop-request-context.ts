import requestContext from '@fastify/request-context'
import Fastify from 'fastify'
import { serve } from './answer.ts'

// What one uses today to know the current request anywhere: it costs what AsyncLocalStorage costs.
const app = Fastify()
await app.register(requestContext)
app.get('/', async () => ({ hello: 'world' }))
await serve(app)
