import { fileURLToPath } from 'node:url'
import { sql } from 'drizzle-orm'
import { migrate } from 'drizzle-orm/postgres-js/migrator'
import type { SongScopes } from './scopes.ts'

const migrationsFolder = fileURLToPath(new URL('../migrations', import.meta.url))

/** Applies the migrations that the database does not have yet: all of them, or none. */
export function migrateSongs(scopes: SongScopes): Promise<void> {
  return scopes.run({ name: 'migrate' }, (scope) =>
    scope.transaction(async () => {
      // Several instances may start at once: the others wait here, and find nothing left to do.
      await scope.db.execute(sql`select pg_advisory_xact_lock(hashtext('songs migrations'))`)
      await migrate(scope.db, { migrationsFolder })
    }),
  )
}
