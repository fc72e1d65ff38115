import { createScopes, type RegisteredScope } from '@reqscope/core'
import { postgres } from '@reqscope/core/postgres'
import { redis } from '@reqscope/core/redis'
import * as schema from './schema.ts'

/** How Postgres calls our connections (`pg_stat_activity.application_name`). */
export const APPLICATION_NAME = 'shop'
export const MAX_CONNECTIONS = 10

export interface ShopServers {
  readonly databaseUrl: string
  readonly redisUrl: string
  /** In front of every key in Redis. Default `'shop:'`. */
  readonly keyPrefix?: string
}

/** The shop's runtime. It is a function because the addresses of its servers are known only once the shop starts. */
export function createShopScopes({ databaseUrl, redisUrl, keyPrefix = 'shop:' }: ShopServers) {
  return createScopes({
    resources: {
      db: postgres({ url: databaseUrl, schema, max: MAX_CONNECTIONS, applicationName: APPLICATION_NAME }),
      redis: redis({
        url: redisUrl,
        connection: { keyPrefix, connectionName: APPLICATION_NAME },
        // As many as ever, so that the smoke test can count them.
        exclusive: { min: 4, max: 4 },
      }),
    },
  })
}

export type ShopScopes = ReturnType<typeof createShopScopes>
export type ShopDatabase = RegisteredScope['db']

declare module '@reqscope/core' {
  interface Register {
    scopes: ShopScopes
  }
}
