// Runs the shop's jobs in a process of its own, beside any number of others: DATABASE_URL=… REDIS_URL=… npm run worker

import { shopJobs } from './jobs/shop-jobs.ts'
import { scheduleStockCheck } from './jobs/stock-check.ts'
import { createShopScopes } from './scopes.ts'
import { onShutdown } from './shutdown.ts'

const { DATABASE_URL, REDIS_URL, MAIL_FOLDER = 'mail' } = process.env
if (DATABASE_URL === undefined) throw new Error('DATABASE_URL must name the shop’s database.')
const scopes = createShopScopes({ databaseUrl: DATABASE_URL, redisUrl: REDIS_URL, mailFolder: MAIL_FOLDER })
onShutdown(() => scopes.close())
await scopes.work(shopJobs)
await scheduleStockCheck(scopes)
