import { type AnyColumn, type SQL, sql } from 'drizzle-orm'
import { InvalidOptionError } from '../errors.ts'
import { STALE_FENCE } from '../postgres/stale-fence.ts'

/**
 * A condition for the write that a lock protects: a row whose fence is greater was written by a later holder, and makes the
 * statement fail with LockLostError instead of being passed over. Write the fence with it:
 *
 * @example
 * db.update(sessions).set({ ..., fence: lock.fence }).where(and(eq(sessions.id, id), fenced(sessions.fence, lock.fence)))
 *
 * It is how a holder that was paused past its lease is kept from overwriting, whatever its own clock says (M. Kleppmann,
 * "How to do distributed locking", 2016). The column is a bigint, and null before the first write.
 *
 * @throws InvalidOptionError for a fence that is none: a shared lock has no fence.
 */
export function fenced(column: AnyColumn, fence: number): SQL {
  if (!Number.isSafeInteger(fence) || fence < 1) {
    throw new InvalidOptionError('fenced.fence', fence, 'the fence of an exclusive lock')
  }
  // Of conditions Postgres evaluates the cheap ones first: to_tsvector counts as 100 operators, so this one comes after
  // those that choose the row. It is called only where the fence is stale, and its text is no boolean, which fails.
  return sql`case when ${column} is null or ${column} <= ${fence}::bigint then true else (to_tsvector('simple', ${sql.raw(`'${STALE_FENCE} '`)} || ${column}))::text::boolean end`
}
