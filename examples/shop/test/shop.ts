import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { observer, testDatabase } from '@reqscope/services/testing'
import { afterAll } from 'vitest'
import { buildApp } from '../src/app.ts'
import { migrateShop } from '../src/migrate.ts'
import { createShopScopes } from '../src/scopes.ts'
import { type SeedSize, seedShop } from '../src/seed.ts'

const SMALL: SeedSize = { products: 50, customers: 10, reviews: 100, orders: 20 }

/** A small shop on a database of its own, and a connection beside it to look at what the shop has really done. */
export async function testShop() {
  const database = await testDatabase()
  const mailFolder = await mkdtemp(join(tmpdir(), 'shop-mail-'))
  const scopes = createShopScopes({ databaseUrl: database.url, redisUrl: undefined, mailFolder })
  await migrateShop(scopes)
  await seedShop(scopes, SMALL)
  const app = await buildApp({ scopes })
  afterAll(async () => {
    await app.close()
    await rm(mailFolder, { recursive: true, force: true })
  })
  return { app, scopes, mailFolder, sql: observer(database) }
}
