import { createScopes, defineResource, type RegisteredScope } from '@reqscope/core'
import { bullmq } from '@reqscope/core/jobs'
import { postgres } from '@reqscope/core/postgres'
import { redis } from '@reqscope/core/redis'
import { Mailer } from './mail.ts'
import * as schema from './schema.ts'

/** How Postgres calls our connections (`pg_stat_activity.application_name`). */
export const APPLICATION_NAME = 'shop'
export const MAX_CONNECTIONS = 10

// Short, so that what a process was at when it died is taken over within seconds.
const TAKE_OVER = { lockDurationMs: 5_000, stalledIntervalMs: 2_000 }

export interface ShopAddresses {
  readonly databaseUrl: string
  /** Without it nothing is cached or reserved, and the jobs are in Postgres, too. */
  readonly redisUrl: string | undefined
  /** In front of every key of the shop's own in Redis. Default `'shop:'`. */
  readonly keyPrefix?: string
  /** Where mails go. */
  readonly mailFolder: string
}

/** The shop's runtime. It is a function because the addresses are known only once the shop starts. */
export function createShopScopes({ databaseUrl, redisUrl, keyPrefix = 'shop:', mailFolder }: ShopAddresses) {
  const mailer = new Mailer(mailFolder)
  return createScopes({
    resources: {
      db: postgres({ url: databaseUrl, schema, max: MAX_CONNECTIONS, applicationName: APPLICATION_NAME }),
      mailer: defineResource({ start: () => mailer.open(), handle: () => mailer }),
      ...redisPart(redisUrl, keyPrefix),
    },
    jobs: bullmq(
      redisUrl === undefined
        ? { transport: 'postgres', ...TAKE_OVER }
        : { url: redisUrl, prefix: `${keyPrefix}bull`, ...TAKE_OVER },
    ),
  })
}

export type ShopScopes = ReturnType<typeof createShopScopes>
export type ShopDatabase = RegisteredScope['db']

declare module '@reqscope/core' {
  interface Register {
    scopes: ShopScopes
  }
}

/** `scope.redis`, where there is a Redis. */
function redisPart(url: string | undefined, keyPrefix: string): { readonly redis?: ReturnType<typeof redis> } {
  if (url === undefined) return {}
  return {
    redis: redis({
      url,
      connection: { keyPrefix, connectionName: APPLICATION_NAME },
      // As many as ever, so that the smoke test can count them.
      exclusive: { min: 4, max: 4 },
    }),
  }
}

/** For routes that there are only where the shop has a Redis. */
export function redisOf(scope: RegisteredScope): NonNullable<RegisteredScope['redis']> {
  if (scope.redis === undefined) throw new Error(`${scope.name} needs Redis, and the shop runs without`)
  return scope.redis
}
