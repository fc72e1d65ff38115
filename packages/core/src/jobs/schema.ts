import { sql } from 'drizzle-orm'
import { bigint, pgTable, text, timestamp, uuid } from 'drizzle-orm/pg-core'

/**
 * The outbox table, for those whose migrations drizzle-kit writes: export it from the schema file that drizzle-kit reads, and
 * give `bullmq({ outbox: { create: false } })`. The same as `outboxMigration()`.
 */
export const reqscopeOutbox = pgTable('reqscope_outbox', {
  id: uuid('id').primaryKey(),
  seq: bigint('seq', { mode: 'bigint' }).generatedAlwaysAsIdentity().notNull().unique(),
  queue: text('queue').notNull(),
  name: text('name').notNull(),
  data: text('data').notNull(),
  opts: text('opts').notNull(),
  createdAt: timestamp('created_at', { withTimezone: true }).notNull().default(sql`clock_timestamp()`),
})
