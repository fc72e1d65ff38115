import { rateLimit, transactional } from '@reqscope/express-adapter'
import { asc, eq, ilike } from 'drizzle-orm'
import { Router } from 'express'
import { z } from 'zod'
import { perMinute, SONGS_PER_MINUTE } from '../limits.ts'
import { Refusal } from '../refusal.ts'
import { authors, songs, verses } from '../schema.ts'

export const Id = z.coerce.number().int().min(1).max(2_147_483_647)
const Listing = z.object({
  search: z.string().max(100).optional(),
  page: z.coerce.number().int().min(1).max(10_000).default(1),
})
const NewSong = z.strictObject({
  title: z.string().min(1).max(200),
  key: z.string().regex(/^[A-H][b#]?m?$/),
  author: z.string().min(1).max(200),
  verses: z.array(z.string().min(1)).min(1).max(50),
})
const PAGE_SIZE = 20

export function songRoutes(): Router {
  const router = Router()

  router.get('/', rateLimit(perMinute(SONGS_PER_MINUTE)), async (request, response) => {
    const { search, page } = Listing.parse(request.query)
    const matching = search === undefined ? undefined : ilike(songs.title, `%${search.replaceAll(/[\\%_]/g, '\\$&')}%`)
    const { db } = request.scope
    const [total, items] = await Promise.all([
      db.$count(songs, matching),
      db
        .select({ id: songs.id, title: songs.title, key: songs.key, author: authors.name })
        .from(songs)
        .innerJoin(authors, eq(authors.id, songs.authorId))
        .where(matching)
        .orderBy(asc(songs.title), asc(songs.id))
        .limit(PAGE_SIZE)
        .offset((page - 1) * PAGE_SIZE),
    ])
    response.json({ page, total, items })
  })

  // The whole song is one statement. Nothing is loaded while the answer is being written: there is no lazy loading here,
  // and a handle that were used after the response would throw.
  router.get('/:id', rateLimit(perMinute(SONGS_PER_MINUTE)), async (request, response) => {
    const id = Id.parse(request.params.id)
    const song = await request.scope.db.query.songs.findFirst({
      where: eq(songs.id, id),
      columns: { authorId: false },
      with: {
        author: { columns: { name: true } },
        verses: { columns: { text: true }, orderBy: asc(verses.position) },
      },
    })
    if (song === undefined) throw new Refusal(404, 'SONGS_NO_SUCH_SONG', `There is no song ${id}.`)
    response.json({ ...song, author: song.author.name, verses: song.verses.map(({ text }) => text) })
  })

  // Song, author and verses are kept together, before the client hears of it, or not at all.
  router.post(
    '/',
    transactional(async (request, response) => {
      const { title, key, author, verses: texts } = NewSong.parse(request.body)
      const { db } = request.scope
      const [writer] = await db
        .insert(authors)
        .values({ name: author })
        .onConflictDoUpdate({ target: authors.name, set: { name: author } })
        .returning({ id: authors.id })
      const [song] = await db
        .insert(songs)
        .values({ title, key, authorId: writer?.id ?? 0 })
        .returning({ id: songs.id })
      const songId = song?.id ?? 0
      await db.insert(verses).values(texts.map((text, index) => ({ songId, position: index + 1, text })))
      response.status(201).location(`/songs/${songId}`).json({ id: songId, title, key, author, verses: texts })
    }),
  )

  return router
}
