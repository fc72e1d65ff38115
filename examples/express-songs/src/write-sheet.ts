import { defineJob } from '@reqscope/core/jobs'
import { asc, eq } from 'drizzle-orm'
import { z } from 'zod'
import { planSongs, sheets, verses } from './schema.ts'

/**
 * The song sheet of a plan, with every verse of every song: once what a request loaded bit by bit while it was answered. It is
 * enqueued in the plan's transaction, so there is a sheet for every plan, and none for what was rolled back.
 */
export const writeSheet = defineJob({
  name: 'write-sheet',
  queue: 'sheets',
  data: z.object({ planId: z.number().int() }),
  attempts: 50,
  backoff: 200,
  timeoutMs: 10_000,
  async run({ data: { planId }, scope }) {
    const found = await scope.db.query.planSongs.findMany({
      where: eq(planSongs.planId, planId),
      orderBy: asc(planSongs.position),
      with: { song: { with: { author: true, verses: { orderBy: asc(verses.position) } } } },
    })
    const text = found
      .map(({ song }) => [`${song.title} (${song.key}), ${song.author.name}`, ...song.verses.map((each) => each.text)])
      .map((lines) => lines.join('\n'))
      .join('\n\n')
    // A job may run twice, and the sheet is there once.
    await scope.db.insert(sheets).values({ planId, text }).onConflictDoNothing()
  },
})
