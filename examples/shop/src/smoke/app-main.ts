// The shop that `npm start` serves, as a process of its own: it is watched from outside, and may crash alone.
import { openShop } from '../shop.ts'
import { onShutdown } from '../shutdown.ts'

const { app, url } = await openShop({
  databaseUrl: process.env.DATABASE_URL ?? '',
  redisUrl: process.env.SHOP_REDIS_URL,
  mailFolder: process.env.MAIL_FOLDER ?? '',
  logger: { level: 'warn' },
  log: () => {},
})
const close = onShutdown(() => app.close())
process.once('disconnect', close)
process.send?.(url)
