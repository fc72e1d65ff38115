import type { FastifyPluginAsyncJsonSchemaToTs } from '@fastify/type-provider-json-schema-to-ts'
import { asc, eq } from 'drizzle-orm'
import { supportMessages } from '../schema.ts'
import { SupportChat } from '../support-chat.ts'

const session = {
  type: 'object',
  required: ['id'],
  properties: { id: { type: 'string', pattern: '^[\\w-]{1,50}$' } },
} as const

const newMessage = {
  type: 'object',
  required: ['author', 'text'],
  additionalProperties: false,
  properties: {
    author: { type: 'string', enum: ['customer', 'support'] },
    text: { type: 'string', minLength: 1, maxLength: 2_000 },
  },
} as const

export const supportRoutes: FastifyPluginAsyncJsonSchemaToTs = async (app) => {
  const chat = new SupportChat()

  app.post(
    '/support/:id/messages',
    { schema: { params: session, body: newMessage } },
    async ({ params, body }, reply) => reply.code(201).send(await chat.append(params.id, body.author, body.text)),
  )

  app.get('/support/:id/messages', { schema: { params: session } }, ({ params, scope }) =>
    scope.db
      .select()
      .from(supportMessages)
      .where(eq(supportMessages.sessionId, params.id))
      .orderBy(asc(supportMessages.number)),
  )
}
