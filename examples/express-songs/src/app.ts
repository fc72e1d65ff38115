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
  // The song book stands behind a proxy of its own machine, whose word is taken for whom a request is from.
  app.set('trust proxy', 'loopback')
  // Before reqscope(): they answer when everything else is limited or shed, and need no scope.
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
