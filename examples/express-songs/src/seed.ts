import { sql } from 'drizzle-orm'
import { authors, planSongs, plans, songs, verses } from './schema.ts'
import type { SongDatabase, SongScopes } from './scopes.ts'
import { writeSheet } from './write-sheet.ts'

const SONGS = 500
const PLANS = 40
const SONGS_OF_A_PLAN = 12
const AUTHORS = ['Ada Bell', 'Ben Okoro', 'Clara Weiss', 'Dag Lund', 'Traditional']
const OPENINGS = ['Morning on', 'Farewell to', 'The road to', 'Lanterns over', 'Rain in', 'A song for', 'Winter at']
const PLACES = ['Lindal', 'the harbour', 'Ember Hill', 'the old mill', 'Saint Maren', 'the northern line', 'Arvenholt']
const KEYS = ['C', 'G', 'D', 'A', 'Em', 'Am', 'F', 'Bb']

/** Fills an empty song book, always with the same songs. Returns whether there was anything to do. */
export function seedSongs(scopes: SongScopes): Promise<boolean> {
  return scopes.run({ name: 'seed' }, (scope) =>
    scope.transaction(async () => {
      // Several instances may start at once: the others wait here, and find the book full.
      await scope.db.execute(sql`select pg_advisory_xact_lock(hashtext('songs seed'))`)
      if ((await scope.db.$count(songs)) > 0) return false
      for (const planId of await fill(scope.db)) await scope.enqueue(writeSheet, { planId })
      return true
    }),
  )
}

/** Returns the plans' ids. */
async function fill(db: SongDatabase): Promise<number[]> {
  const writers = await db
    .insert(authors)
    .values(AUTHORS.map((name) => ({ name })))
    .returning()
  const written = await db
    .insert(songs)
    .values(
      upTo(SONGS).map((index) => ({
        title: `${pick(OPENINGS, index)} ${pick(PLACES, Math.floor(index / OPENINGS.length))}, no. ${index + 1}`,
        key: pick(KEYS, index),
        authorId: pick(writers, index).id,
      })),
    )
    .returning()
  await db
    .insert(verses)
    .values(
      written.flatMap(({ id: songId, title }) =>
        upTo(4).map((index) => ({ songId, position: index + 1, text: `${title}, verse ${index + 1}` })),
      ),
    )
  const planned = await db
    .insert(plans)
    .values(upTo(PLANS).map((index) => ({ name: `Evening ${index + 1}` })))
    .returning()
  await db.insert(planSongs).values(
    planned.flatMap(({ id: planId }, plan) =>
      upTo(SONGS_OF_A_PLAN).map((index) => ({
        planId,
        position: index + 1,
        songId: pick(written, plan * SONGS_OF_A_PLAN + index).id,
      })),
    ),
  )
  return planned.map(({ id }) => id)
}

function upTo(count: number): number[] {
  return Array.from({ length: count }, (_, index) => index)
}

function pick<Item>(from: readonly Item[], index: number): Item {
  return from[index % from.length] as Item
}
