import { reqscope, reqscopeErrors } from '@reqscope/express-adapter'
import express, { type Express } from 'express'
import helmet from 'helmet'
import { answerRefusals } from './refusal.ts'
import { operationRoutes } from './routes/operations.ts'
import { planRoutes } from './routes/plans.ts'
import { songRoutes } from './routes/songs.ts'
import type { SongScopes } from './scopes.ts'

export function buildApp({ scopes }: { scopes: SongScopes }): Express {
  const app = express()
  // Before reqscope(): they ask the runtime and not the database, so they need no scope of their own.
  app.use(operationRoutes(scopes))

  app.use(reqscope({ scopes }))
  app.use(helmet())
  app.use(express.json())
  app.use('/songs', songRoutes())
  app.use('/plans', planRoutes())

  app.use(reqscopeErrors())
  app.use(answerRefusals)
  return app
}
