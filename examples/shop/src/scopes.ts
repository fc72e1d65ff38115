import { createScopes, defineResource, type RegisteredScope } from '@reqscope/core'
import { bullmq } from '@reqscope/core/jobs'
import { postgres } from '@reqscope/core/postgres'
import { Mailer } from './mail.ts'
import * as schema from './schema.ts'

/** How Postgres calls our connections (`pg_stat_activity.application_name`). */
export const APPLICATION_NAME = 'shop'
export const MAX_CONNECTIONS = 10

// Short, so that what a process was at when it died is taken over within seconds.
const TAKE_OVER = { lockDurationMs: 5_000, stalledIntervalMs: 2_000 }

export interface ShopAddresses {
  readonly databaseUrl: string
  /** Without it the jobs are in Postgres, too. */
  readonly redisUrl: string | undefined
  /** Where mails go. */
  readonly mailFolder: string
}

/** The shop's runtime. It is a function because the addresses are known only once the shop starts. */
export function createShopScopes({ databaseUrl, redisUrl, mailFolder }: ShopAddresses) {
  const mailer = new Mailer(mailFolder)
  return createScopes({
    resources: {
      db: postgres({ url: databaseUrl, schema, max: MAX_CONNECTIONS, applicationName: APPLICATION_NAME }),
      mailer: defineResource({ start: () => mailer.open(), handle: () => mailer }),
    },
    jobs: bullmq(redisUrl === undefined ? { transport: 'postgres', ...TAKE_OVER } : { url: redisUrl, ...TAKE_OVER }),
  })
}

export type ShopScopes = ReturnType<typeof createShopScopes>
export type ShopDatabase = RegisteredScope['db']

declare module '@reqscope/core' {
  interface Register {
    scopes: ShopScopes
  }
}
