import type { FastifyInstance } from 'fastify'
import { type AppOptions, buildApp } from './app.ts'
import { migrateShop } from './migrate.ts'
import { createShopScopes, type ShopAddresses } from './scopes.ts'
import { seedShop } from './seed.ts'

export interface ShopOptions extends ShopAddresses {
  /** Default: any free one. */
  readonly port?: number
  readonly logger?: AppOptions['logger']
  /** Told in a line what happens. */
  readonly log: (line: string) => void
}

/** Opens the shop: the database is migrated and filled, and the app listens. `app.close()` closes all of it. */
export async function openShop({
  databaseUrl,
  redisUrl,
  mailFolder,
  port = 0,
  logger,
  log,
}: ShopOptions): Promise<{ app: FastifyInstance; url: string }> {
  const scopes = createShopScopes({ databaseUrl, redisUrl, mailFolder })
  try {
    log('Shop: migrating')
    await migrateShop(scopes)
    if (await seedShop(scopes)) log('Shop: filled with 5,000 products')
    const app = await buildApp({ scopes, logger })
    const url = await app.listen({ host: '127.0.0.1', port })
    return { app, url }
  } catch (error) {
    await scopes.close()
    throw error
  }
}
