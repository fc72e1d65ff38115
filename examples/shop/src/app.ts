import reqscope, { reqscopeWorkers } from '@reqscope/fastify-plugin'
import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import { shopJobs } from './jobs/shop-jobs.ts'
import { scheduleStockCheck } from './jobs/stock-check.ts'
import { marketRoutes } from './routes/market.ts'
import { operationRoutes } from './routes/operations.ts'
import { orderRoutes } from './routes/orders.ts'
import { productRoutes } from './routes/products.ts'
import { quoteRoutes } from './routes/quotes.ts'
import { reportRoutes } from './routes/reports.ts'
import { reservationRoutes } from './routes/reservations.ts'
import { signupRoutes } from './routes/signup.ts'
import { supportRoutes } from './routes/support.ts'
import { webhookRoutes } from './routes/webhooks.ts'
import type { ShopScopes } from './scopes.ts'

// Most of a request is waiting, so many may be under way; how many, the shop finds out by how long its answers take.
const AT_ONCE = { min: 400, initial: 500 }

export interface AppOptions {
  /** Opened with the app, and closed by `app.close()`. */
  readonly scopes: ShopScopes
  /** Default: none. */
  readonly logger?: FastifyServerOptions['logger']
}

export async function buildApp({ scopes, logger = false }: AppOptions): Promise<FastifyInstance> {
  const app = Fastify({ logger })
  await app.register(reqscope, { scopes, health: true, adaptive: AT_ONCE })
  await app.register(productRoutes)
  await app.register(orderRoutes)
  await app.register(quoteRoutes)
  await app.register(reportRoutes)
  await app.register(signupRoutes)
  await app.register(webhookRoutes)
  if (scopes.resources.redis !== undefined) {
    await app.register(reservationRoutes)
    await app.register(marketRoutes)
  }
  await app.register(supportRoutes)
  await app.register(operationRoutes, { scopes })
  await app.register(reqscopeWorkers, { jobs: shopJobs })
  app.addHook('onReady', () => scheduleStockCheck(scopes))
  return app
}
