import { createScopes, type RegisteredScope } from '@reqscope/core'
import { bullmq } from '@reqscope/core/jobs'
import { postgres } from '@reqscope/core/postgres'
import { redis } from '@reqscope/core/redis'
import * as schema from './schema.ts'

/** How Postgres and Redis call the connections of the process that answers requests. */
export const APPLICATION_NAME = 'songs'
export const MAX_CONNECTIONS = 10

// Short, so that what a process was at when it died is taken over within seconds.
const TAKE_OVER = { lockDurationMs: 5_000, stalledIntervalMs: 2_000 }

export interface SongAddresses {
  readonly databaseUrl: string
  /** Without it the jobs are in Postgres, and each process counts for its own limits. */
  readonly redisUrl: string | undefined
  /** In front of every key of the song book's own in Redis. Default `'songs:'`. */
  readonly keyPrefix?: string | undefined
  /** How Postgres and Redis call the connections of this process. */
  readonly applicationName?: string
}

/** The song book's runtime. It is a function because the addresses are known only once it starts. */
export function createSongScopes({
  databaseUrl,
  redisUrl,
  keyPrefix = 'songs:',
  applicationName = APPLICATION_NAME,
}: SongAddresses) {
  return createScopes({
    resources: {
      db: postgres({ url: databaseUrl, schema, max: MAX_CONNECTIONS, applicationName }),
      ...redisPart(redisUrl, keyPrefix, applicationName),
    },
    jobs: bullmq(
      redisUrl === undefined
        ? { transport: 'postgres', ...TAKE_OVER }
        : { url: redisUrl, prefix: `${keyPrefix}bull`, ...TAKE_OVER },
    ),
  })
}

/** `scope.redis`, where there is a Redis: it is what the limits are counted in. */
function redisPart(
  url: string | undefined,
  keyPrefix: string,
  connectionName: string,
): { readonly redis?: ReturnType<typeof redis> } {
  if (url === undefined) return {}
  return { redis: redis({ url, connection: { keyPrefix, connectionName } }) }
}

export type SongScopes = ReturnType<typeof createSongScopes>
export type SongDatabase = RegisteredScope['db']

declare module '@reqscope/core' {
  interface Register {
    scopes: SongScopes
  }
}
