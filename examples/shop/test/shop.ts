import { randomUUID } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
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
  const mailFolder = await mkdtemp(join(tmpdir(), 'shop-mail-'))
  const scopes = createShopScopes({ databaseUrl: database.url, redisUrl, keyPrefix, mailFolder })
  await migrateShop(scopes)
  await seedShop(scopes, SMALL)
  const app = await buildApp({ scopes })
  const redis = new Redis(redisUrl, { keyPrefix })
  afterAll(async () => {
    await app.close()
    redis.disconnect()
    await rm(mailFolder, { recursive: true, force: true })
  })
  return { app, scopes, mailFolder, sql: observer(database), redis }
}
