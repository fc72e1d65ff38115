import { bigserial, pgTable, text } from 'drizzle-orm/pg-core'

/** What is inserted in the transaction that enqueues the job. */
export const placed = pgTable('placed', { id: text('id').primaryKey(), jobId: text('job_id').notNull() })
/** One row for each time that a job ran to its end. */
export const executed = pgTable('executed', {
  seq: bigserial('seq', { mode: 'number' }).primaryKey(),
  jobId: text('job_id').notNull(),
})
/** What jobs do, keyed by their id: once, however often they run. */
export const effects = pgTable('effects', {
  jobId: text('job_id').primaryKey(),
  orderId: text('order_id').notNull(),
  times: text('times').notNull(),
})

export const schema = { placed, executed, effects }

export const TABLES = `
  create table placed (id text primary key, job_id text not null);
  create table executed (seq bigserial primary key, job_id text not null);
  create table effects (job_id text primary key, order_id text not null, times text not null)`
