import { join } from 'node:path'
import { connect, createDatabase, startPostgres, startRedis } from '@reqscope/services'

export interface ServersOptions {
  /** Where the data stays between runs; without it, it is temporary. */
  readonly dataFolder?: string
  /** Start servers even where DATABASE_URL and REDIS_URL name some. Default false. */
  readonly own?: boolean
  /** Start no Redis. Default false. */
  readonly withoutRedis?: boolean
  /** Told in a line what happens. */
  readonly log: (line: string) => void
}

export interface Servers {
  readonly databaseUrl: string
  readonly redisUrl: string | undefined
  stop(): Promise<void>
}

/** The shop's Postgres and Redis. A real deployment has them already, and names them in DATABASE_URL and REDIS_URL. */
export async function startServers({
  dataFolder,
  own = false,
  withoutRedis = false,
  log,
}: ServersOptions): Promise<Servers> {
  const folder = (service: string) => (dataFolder === undefined ? {} : { dataFolder: join(dataFolder, service) })
  // What was enqueued must still be there when Redis is started again.
  const redis = withoutRedis
    ? undefined
    : await startRedis({ ...folder('redis'), own, aof: own || dataFolder !== undefined, log })
  const postgres = await startPostgres({ ...folder('postgres'), own, log })
  return {
    databaseUrl: postgres.external ? postgres.url : await databaseOf(postgres.url),
    redisUrl: redis?.url,
    async stop() {
      await Promise.all([postgres.stop(), redis?.stop()])
    },
  }
}

async function databaseOf(serverUrl: string): Promise<string> {
  const name = 'shop'
  const sql = connect(serverUrl)
  try {
    const [found] = await sql`select from pg_database where datname = ${name}`
    if (found === undefined) return (await createDatabase(serverUrl, { name })).url
  } finally {
    await sql.end({ timeout: 5 })
  }
  return Object.assign(new URL(serverUrl), { pathname: `/${name}` }).href
}
