import type { FastifyInstance } from 'fastify'

/** Listens, and tells the parent where; answers its questions about this process until it goes away. */
export async function serve(app: FastifyInstance): Promise<void> {
  await app.listen({ port: 0, host: '127.0.0.1' })
  const address = app.server.address()
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
