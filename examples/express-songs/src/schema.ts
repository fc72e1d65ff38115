import { relations } from 'drizzle-orm'
import { index, integer, pgTable, primaryKey, text, timestamp } from 'drizzle-orm/pg-core'

const id = () => integer('id').primaryKey().generatedAlwaysAsIdentity()

export const authors = pgTable('authors', { id: id(), name: text('name').notNull().unique() })

export const songs = pgTable(
  'songs',
  {
    id: id(),
    title: text('title').notNull(),
    key: text('key').notNull(),
    authorId: integer('author_id')
      .notNull()
      .references(() => authors.id),
  },
  (table) => [index('songs_title').on(table.title)],
)

export const verses = pgTable(
  'verses',
  {
    songId: integer('song_id')
      .notNull()
      .references(() => songs.id, { onDelete: 'cascade' }),
    position: integer('position').notNull(),
    text: text('text').notNull(),
  },
  (table) => [primaryKey({ columns: [table.songId, table.position] })],
)

/** What is sung on an evening. */
export const plans = pgTable('plans', {
  id: id(),
  name: text('name').notNull(),
  createdAt: timestamp('created_at', { withTimezone: true }).notNull().defaultNow(),
})

export const planSongs = pgTable(
  'plan_songs',
  {
    planId: integer('plan_id')
      .notNull()
      .references(() => plans.id, { onDelete: 'cascade' }),
    position: integer('position').notNull(),
    songId: integer('song_id')
      .notNull()
      .references(() => songs.id),
  },
  (table) => [primaryKey({ columns: [table.planId, table.position] })],
)

/** What the band plays from: the songs of a plan with all their verses. A job writes it. */
export const sheets = pgTable('sheets', {
  planId: integer('plan_id')
    .primaryKey()
    .references(() => plans.id, { onDelete: 'cascade' }),
  text: text('text').notNull(),
})

export const songRelations = relations(songs, ({ one, many }) => ({
  author: one(authors, { fields: [songs.authorId], references: [authors.id] }),
  verses: many(verses),
}))
export const verseRelations = relations(verses, ({ one }) => ({
  song: one(songs, { fields: [verses.songId], references: [songs.id] }),
}))
export const planRelations = relations(plans, ({ many }) => ({ songs: many(planSongs) }))
export const planSongRelations = relations(planSongs, ({ one }) => ({
  plan: one(plans, { fields: [planSongs.planId], references: [plans.id] }),
  song: one(songs, { fields: [planSongs.songId], references: [songs.id] }),
}))
