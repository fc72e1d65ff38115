import { once } from 'node:events'
import { createServer, type RequestListener, type Server } from 'node:http'
import type { FastifyInstance } from 'fastify'

/** Listens, and tells the parent where; answers its questions about this process until it goes away. */
export async function serve(app: FastifyInstance): Promise<void> {
  await app.listen({ port: 0, host: '127.0.0.1' })
  answer(app.server)
}

/** The same for what is a listener of `node:http`. */
export async function serveListener(listener: RequestListener): Promise<void> {
  const server = createServer(listener).listen(0, '127.0.0.1')
  await once(server, 'listening')
  answer(server)
}

function answer(server: Server): void {
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('no port')
  process.on('message', (question) => {
    if (question === 'cpu') process.send?.({ cpu: process.cpuUsage() })
  })
  process.on('disconnect', () => process.exit())
  process.send?.({ url: `http://127.0.0.1:${address.port}` })
}

/** Where the database is, as the parent said. */
export const databaseUrl = process.env.DATABASE_URL ?? ''

/** Where Redis is, for the rows that need it. */
export const redisUrl = process.env.REDIS_URL ?? ''
