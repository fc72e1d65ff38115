import { pgTable, serial, text } from 'drizzle-orm/pg-core'

export const notes = pgTable('notes', {
  id: serial('id').primaryKey(),
  text: text('text').notNull().unique(),
})

export const schema = { notes }

/** Beside the table: `late`, whose constraint is checked at COMMIT only, and whose trigger then takes its time. */
export const DDL = `
  create table notes (id serial primary key, text text not null unique);
  create table late (id int primary key, text text, constraint late_text unique (text) deferrable initially deferred);
  create function dawdle() returns trigger language plpgsql as 'begin perform pg_sleep(20); return new; end';
  create table slow (id int primary key);
  create constraint trigger slow_commit after insert on slow deferrable initially deferred for each row execute function dawdle();
`
