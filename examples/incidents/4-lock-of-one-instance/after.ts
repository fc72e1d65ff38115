import { currentScope } from '@reqscope/core'
import { locked } from '@reqscope/core/decorators'
import reqscope from '@reqscope/fastify-plugin'
import Fastify, { type FastifyInstance } from 'fastify'
import type { Addresses } from '../src/incident.ts'

interface Session {
  readonly messages: readonly string[]
}

const append = locked(
  { key: (id: string) => `chat:session_lock:${id}`, ttlMs: 60_000, waitMs: 30_000 },
  async (id: string, message: string) => {
    const { redis } = currentScope()
    const session = JSON.parse((await redis.get(`chat:session:${id}`)) ?? '{"messages":[]}') as Session
    await redis.set(`chat:session:${id}`, JSON.stringify({ messages: [...session.messages, message] }))
  },
)

export async function open({ redisUrl }: Addresses): Promise<FastifyInstance> {
  const app = Fastify()
  await app.register(reqscope, { redis: { url: redisUrl } })
  app.post<{ Params: { id: string }; Body: { message: string } }>('/chats/:id', async ({ params, body }) => {
    await append(params.id, body.message)
    return {}
  })
  return app
}
