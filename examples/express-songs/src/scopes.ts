import { createScopes, type RegisteredScope } from '@reqscope/core'
import { postgres } from '@reqscope/core/postgres'
import * as schema from './schema.ts'

/** How Postgres calls our connections (`pg_stat_activity.application_name`). */
export const APPLICATION_NAME = 'songs'
export const MAX_CONNECTIONS = 10

/** The song book's runtime. It is a function because the address of the database is known only once it starts. */
export function createSongScopes({ databaseUrl }: { databaseUrl: string }) {
  return createScopes({
    resources: {
      db: postgres({ url: databaseUrl, schema, max: MAX_CONNECTIONS, applicationName: APPLICATION_NAME }),
    },
  })
}

export type SongScopes = ReturnType<typeof createSongScopes>
export type SongDatabase = RegisteredScope['db']

declare module '@reqscope/core' {
  interface Register {
    scopes: SongScopes
  }
}
