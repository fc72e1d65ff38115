import { observer, testDatabase } from '@reqscope/services/testing'
import { beforeAll, describe, expect, it } from 'vitest'
import { openSongBook, type SongBook } from '../src/song-book.ts'

describe('the song book', () => {
  let book: SongBook
  let sql: ReturnType<typeof observer>
  beforeAll(async () => {
    const database = await testDatabase()
    sql = observer(database)
    book = await openSongBook({ databaseUrl: database.url, log: () => {} })
    return () => book.close()
  })
  const get = async (path: string) => {
    const answer = await fetch(book.url + path)
    return { status: answer.status, body: (await answer.json()) as never }
  }
  const post = async (path: string, body: object) => {
    const answer = await fetch(book.url + path, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(body),
    })
    return { status: answer.status, location: answer.headers.get('location'), body: (await answer.json()) as never }
  }

  it('lists and finds songs', async () => {
    expect(await get('/songs')).toMatchObject({ status: 200, body: { page: 1, total: 500 } })
    expect((await get('/songs?search=no.%20500')).body).toMatchObject({
      total: 1,
      items: [{ author: expect.any(String) }],
    })
    expect((await get('/songs?search=%25')).body).toMatchObject({ total: 0 })
    expect((await get('/songs?page=0')).status).toBe(400)
  })

  it('shows a song with its verses', async () => {
    expect(await get('/songs/1')).toMatchObject({ status: 200, body: { id: 1, verses: { length: 4 } } })
    expect(await get('/songs/1000000')).toMatchObject({ status: 404, body: { code: 'SONGS_NO_SUCH_SONG' } })
  })

  it('keeps a song with its author and verses', async () => {
    const song = { title: 'New', key: 'Em', author: 'Ada Bell', verses: ['one', 'two'] }
    const { status, location, body } = await post('/songs', song)
    expect([status, body]).toMatchObject([201, song])
    expect((await get(location ?? '')).body).toMatchObject(song)
  })

  it('shows the songs of a plan in their order, with two statements however many they are', async () => {
    const { location } = await post('/plans', { name: 'Friday', songs: [7, 3, 7] })
    expect(await get(location ?? '')).toMatchObject({ status: 200, body: [{ id: 7 }, { id: 3 }, { id: 7 }] })
    expect((await get('/plans/1000000/songs')).status).toBe(404)
  })

  it('keeps nothing of a plan with a song that is not there', async () => {
    const before = await sql`select id from plans`
    expect(await post('/plans', { name: 'Friday', songs: [1, 1_000_000] })).toMatchObject({ status: 422 })
    expect(await sql`select id from plans`).toEqual(before)
  })

  it('serves twelve tabs of a plan at once, and holds nothing afterwards', async () => {
    const answers = await Promise.all(Array.from({ length: 60 }, (_, index) => get(`/plans/${(index % 40) + 1}/songs`)))
    expect(answers.every(({ status, body }) => status === 200 && (body as unknown[]).length === 12)).toBe(true)
    await expect.poll(() => get('/debug/connections')).toMatchObject({ body: { openScopes: { total: 0 }, leases: [] } })
    expect((await get('/health')).body).toMatchObject({ status: 'up' })
  })
})
