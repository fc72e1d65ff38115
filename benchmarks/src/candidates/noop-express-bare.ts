import express from 'express'
import { serveListener } from './answer.ts'

const app = express()
app.get('/', async (_request, response) => void response.json({ hello: 'world' }))
await serveListener(app)
