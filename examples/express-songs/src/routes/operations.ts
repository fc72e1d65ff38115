import { Router } from 'express'
import type { SongScopes } from '../scopes.ts'

/** For whoever is on call. A real song book would not show these routes to the public. */
export function operationRoutes(scopes: SongScopes): Router {
  const router = Router()
  router.get('/health', async (_request, response) => {
    const health = await scopes.health()
    response.status(health.status === 'down' ? 503 : 200).json(health)
  })
  // Who holds the connections?
  router.get('/debug/connections', (_request, response) => {
    response.json(scopes.snapshot())
  })
  return router
}
