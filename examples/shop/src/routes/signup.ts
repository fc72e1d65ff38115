import { randomUUID } from 'node:crypto'
import type { FastifyPluginAsyncJsonSchemaToTs } from '@fastify/type-provider-json-schema-to-ts'
import type { RouteRateLimitOptions } from '@reqscope/core/http'
import type { FastifyRequest } from 'fastify'
import { EmailTaken } from '../errors.ts'
import { customers, vouchers } from '../schema.ts'

const WELCOME_CENTS = 1_000

const newCustomer = {
  type: 'object',
  required: ['name', 'email'],
  additionalProperties: false,
  properties: {
    name: { type: 'string', minLength: 1, maxLength: 200 },
    email: { type: 'string', format: 'email', maxLength: 200 },
  },
} as const

// Nobody needs that many tries to sign up with one address. Who asks is known once the body has been read and checked.
const TRIES: RouteRateLimitOptions<FastifyRequest> = {
  limit: 30,
  windowMs: 600_000,
  stage: 'preHandler',
  key: ({ body }) => (body as { email: string }).email.toLowerCase(),
}

export const signupRoutes: FastifyPluginAsyncJsonSchemaToTs = async (app) => {
  app.post(
    '/signup',
    { schema: { body: newCustomer }, config: { scope: { rateLimit: TRIES } } },
    async ({ body, scope }, reply) => {
      // Only a part of the handler is a transaction here: what is inside the function.
      const signedUp = await scope.transaction(async () => {
        const [customer] = await scope.db.insert(customers).values(body).onConflictDoNothing().returning()
        if (customer === undefined) throw new EmailTaken(body.email)
        const voucher = { customerId: customer.id, code: randomUUID(), cents: WELCOME_CENTS }
        await scope.db.insert(vouchers).values(voucher)
        return { ...customer, voucher: { code: voucher.code, cents: voucher.cents } }
      })
      return reply.code(201).send(signedUp)
    },
  )
}
