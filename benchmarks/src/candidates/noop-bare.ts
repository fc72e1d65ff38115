import Fastify from 'fastify'
import { serve } from './answer.ts'

const app = Fastify()
app.get('/', async () => ({ hello: 'world' }))
await serve(app)
