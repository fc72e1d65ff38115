import { createDatabase, startPostgres, startRedis } from '@reqscope/services'
import { outage, shopLike } from './outage.ts'

const seconds = Number(process.argv[2] ?? 10)
const table: Record<string, object> = {}
for (const killed of ['Postgres', 'Redis'] as const) {
  const [database, redis] = [await startPostgres({ own: true }), await startRedis({ own: true })]
  try {
    const { url } = await createDatabase(database)
    const told = await outage(await shopLike(url, redis.url), killed === 'Postgres' ? database : redis, seconds)
    table[`${killed} killed for ${seconds} s`] = {
      requests: told.requests,
      outcomes: told.outcomes,
      'longest, ms': Math.round(told.longestMs),
      'recovered after, ms': Math.round(told.recoveredAfterMs),
      'leases left': told.leasesLeft,
      'scopes left': told.openScopesLeft,
    }
  } finally {
    await Promise.all([database.stop(), redis.stop()])
  }
}
console.table(table)
