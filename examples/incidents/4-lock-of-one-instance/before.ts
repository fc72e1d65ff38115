import { Mutex } from 'async-mutex'
import Fastify, { type FastifyInstance } from 'fastify'
import { Redis } from 'ioredis'
import type { Addresses } from '../src/incident.ts'

interface Session {
  readonly messages: readonly string[]
}

export function open({ redisUrl }: Addresses): FastifyInstance {
  const redis = new Redis(redisUrl)
  const locks = new Map<string, Mutex>()
  const lockOf = (id: string) => {
    const lock = locks.get(id) ?? new Mutex()
    locks.set(id, lock)
    return lock
  }

  const append = (id: string, message: string) =>
    lockOf(id).runExclusive(async () => {
      const session = JSON.parse((await redis.get(`chat:session:${id}`)) ?? '{"messages":[]}') as Session
      await redis.set(`chat:session:${id}`, JSON.stringify({ messages: [...session.messages, message] }))
    })

  const app = Fastify()
  app.post<{ Params: { id: string }; Body: { message: string } }>('/chats/:id', async ({ params, body }) => {
    await append(params.id, body.message)
    return {}
  })
  return app
}
