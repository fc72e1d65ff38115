import { createDatabase, startPostgres, startRedis } from '@reqscope/services'
import type { Closers } from './closers.ts'
import type { SongAddresses } from './scopes.ts'

export interface ServersOptions {
  /** Start servers even where DATABASE_URL and REDIS_URL name some. Default false. */
  readonly own?: boolean
  /** Start no Redis. Default false. */
  readonly withoutRedis?: boolean
  /** Told in a line what happens. */
  readonly log: (line: string) => void
}

/** The song book's Postgres and Redis. A real deployment has them already, and names them in DATABASE_URL and REDIS_URL. */
export async function startServers(
  closers: Closers,
  { own = false, withoutRedis = false, log }: ServersOptions,
): Promise<SongAddresses> {
  // What was enqueued must still be there when Redis is started again.
  const redis = withoutRedis ? undefined : await startRedis({ own, aof: own, log })
  if (redis !== undefined) closers.add(() => redis.stop())
  const postgres = await startPostgres({ own, log })
  closers.add(() => postgres.stop())
  const databaseUrl = postgres.external ? postgres.url : (await createDatabase(postgres)).url
  return { databaseUrl, redisUrl: redis?.url }
}
