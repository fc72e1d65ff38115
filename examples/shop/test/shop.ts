import { randomUUID } from 'node:crypto'
import { observer, testDatabase, testRedis } from '@reqscope/services/testing'
import { Redis } from 'ioredis'
import { afterAll } from 'vitest'
import { buildApp } from '../src/app.ts'
import { migrateShop } from '../src/migrate.ts'
import { createShopScopes } from '../src/scopes.ts'
import { type SeedSize, seedShop } from '../src/seed.ts'

const SMALL: SeedSize = { products: 50, customers: 10, reviews: 100, orders: 20 }

/** A small shop on a database of its own, and connections beside it to look at what the shop has really done. */
export async function testShop() {
  const database = await testDatabase()
  const redisUrl = await testRedis()
  const keyPrefix = `${randomUUID()}:`
  const scopes = createShopScopes({ databaseUrl: database.url, redisUrl, keyPrefix })
  await migrateShop(scopes)
  await seedShop(scopes, SMALL)
  const app = await buildApp({ scopes })
  afterAll(() => app.close())
  const redis = new Redis(redisUrl, { keyPrefix })
  afterAll(() => redis.disconnect())
  return { app, scopes, sql: observer(database), redis }
}
