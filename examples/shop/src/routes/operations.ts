import type { FastifyPluginAsync } from 'fastify'
import type { ShopScopes } from '../scopes.ts'

/** For whoever is on call. A real shop would not show these routes to the public. */
export const operationRoutes: FastifyPluginAsync<{ scopes: ShopScopes }> = async (app, { scopes }) => {
  // They ask the runtime and not the database, so they need no scope of their own.
  app.get('/health', { config: { scope: false } }, async (_request, reply) => {
    const health = await scopes.health()
    return reply.code(health.status === 'down' ? 503 : 200).send(health)
  })

  // Who holds the connections?
  app.get('/debug/connections', { config: { scope: false } }, async () => scopes.snapshot())
}
