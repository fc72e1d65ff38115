import { health } from '@reqscope/express-adapter'
import { Router } from 'express'
import type { SongScopes } from '../scopes.ts'

/** For whoever is on call. A real song book would not show these routes to the public. */
export function operationRoutes(scopes: SongScopes): Router {
  const router = Router()
  router.use(health({ scopes, details: true })) // /health/live and /health/ready
  // Who holds the connections?
  router.get('/debug/connections', (_request, response) => {
    response.json(scopes.snapshot())
  })
  return router
}
