import { concurrency, rateLimit, scopeOptions, transactional } from '@reqscope/express-adapter'
import { asc, desc, eq, inArray } from 'drizzle-orm'
import { Router } from 'express'
import { z } from 'zod'
import { PLAN_SONGS_PER_MINUTE, perMinute } from '../limits.ts'
import { Refusal } from '../refusal.ts'
import { authors, planSongs, plans, sheets, songs } from '../schema.ts'
import type { SongDatabase } from '../scopes.ts'
import { writeSheet } from '../write-sheet.ts'
import { Id } from './songs.ts'

const NewPlan = z.strictObject({ name: z.string().min(1).max(200), songs: z.array(Id).min(1).max(30) })
const PAGE_SIZE = 20

export function planRoutes(): Router {
  const router = Router()

  router.get('/', async (request, response) => {
    response.json(await request.scope.db.select().from(plans).orderBy(desc(plans.id)).limit(PAGE_SIZE))
  })

  // The route that broke the song book: it is asked for by every tab of an evening at once. A client may ask 60 times a minute;
  // 20 requests are under way at once, and the next 100 wait for a second at most. It takes two statements, whatever the number
  // of songs, and may take two seconds: what is late then is cancelled, and its connection is back.
  const held = [
    rateLimit(perMinute(PLAN_SONGS_PER_MINUTE)),
    concurrency({ max: 20, maxQueued: 100, maxWaitMs: 1_000 }),
    scopeOptions({ timeoutMs: 2_000 }),
  ]
  router.get('/:id/songs', ...held, async (request, response) => {
    const id = Id.parse(request.params.id)
    const { db } = request.scope
    await requirePlan(db, id)
    const found = await db
      .select({ position: planSongs.position, id: songs.id, title: songs.title, key: songs.key, author: authors.name })
      .from(planSongs)
      .innerJoin(songs, eq(songs.id, planSongs.songId))
      .innerJoin(authors, eq(authors.id, songs.authorId))
      .where(eq(planSongs.planId, id))
      .orderBy(asc(planSongs.position))
    response.json(found)
  })

  router.post(
    '/',
    transactional(async (request, response) => {
      const { name, songs: wanted } = NewPlan.parse(request.body)
      const { db } = request.scope
      const known = await db.select({ id: songs.id }).from(songs).where(inArray(songs.id, wanted))
      const unknown = wanted.find((id) => !known.some((song) => song.id === id))
      const [plan] = await db.insert(plans).values({ name }).returning()
      // Thrown, so the plan is not kept either.
      if (unknown !== undefined) throw new Refusal(422, 'SONGS_UNKNOWN_SONG', `There is no song ${unknown}.`)
      const planId = plan?.id ?? 0
      await db.insert(planSongs).values(wanted.map((songId, index) => ({ planId, songId, position: index + 1 })))
      await request.scope.enqueue(writeSheet, { planId }) // there if, and only if, the plan is kept
      response.status(201).location(`/plans/${planId}/songs`).json({ id: planId, name, songs: wanted })
    }),
  )

  // The sheet was written by a job, so it is one row, however long the plan is.
  router.get('/:id/sheet', async (request, response) => {
    const id = Id.parse(request.params.id)
    const { db } = request.scope
    const [sheet] = await db.select().from(sheets).where(eq(sheets.planId, id))
    if (sheet === undefined) {
      await requirePlan(db, id)
      response.set('retry-after', '1')
      throw new Refusal(404, 'SONGS_NO_SHEET_YET', `The sheet of plan ${id} is being written.`)
    }
    response.type('text/plain').send(sheet.text)
  })

  return router
}

async function requirePlan(db: SongDatabase, id: number): Promise<void> {
  const [found] = await db.select({ id: plans.id }).from(plans).where(eq(plans.id, id))
  if (found === undefined) throw new Refusal(404, 'SONGS_NO_SUCH_PLAN', `There is no plan ${id}.`)
}
