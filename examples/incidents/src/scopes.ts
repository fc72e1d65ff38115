import type { RegisteredScope } from '@reqscope/core'
import { createScopes } from '@reqscope/core'
import { bullmq } from '@reqscope/core/jobs'
import { postgres } from '@reqscope/core/postgres'
import { redis } from '@reqscope/core/redis'
import type { Addresses } from './incident.ts'

/** The runtime of the applications that need one of their own; the others have the plugin make it. */
export function createIncidentScopes({ databaseUrl, redisUrl }: Addresses) {
  return createScopes({
    resources: { db: postgres({ url: databaseUrl, max: 10 }), redis: redis({ url: redisUrl }) },
    jobs: bullmq({ url: redisUrl }),
  })
}

export type IncidentScope = RegisteredScope

declare module '@reqscope/core' {
  interface Register {
    scopes: ReturnType<typeof createIncidentScopes>
  }
}
