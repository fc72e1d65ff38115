import { createScopes, type RegisteredScope } from '@reqscope/core'
import { postgres } from '@reqscope/core/postgres'
import * as schema from './schema.ts'

/** How Postgres calls our connections (`pg_stat_activity.application_name`). */
export const APPLICATION_NAME = 'shop'
export const MAX_CONNECTIONS = 10

/** The shop's runtime. It is a function because the address of the database is known only once the shop starts. */
export function createShopScopes({ databaseUrl }: { databaseUrl: string }) {
  return createScopes({
    resources: {
      db: postgres({ url: databaseUrl, schema, max: MAX_CONNECTIONS, applicationName: APPLICATION_NAME }),
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
