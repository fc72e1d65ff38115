import { randomUUID } from 'node:crypto'
import { observer, testDatabase, testRedis } from '@reqscope/services/testing'
import { beforeAll, describe, expect, it } from 'vitest'
import { openSongBook, type SongBook } from '../src/song-book.ts'

describe('the song book', () => {
  let book: SongBook
  let sql: ReturnType<typeof observer>
  beforeAll(async () => {
    const database = await testDatabase()
    sql = observer(database)
    const redisUrl = await testRedis()
    book = await openSongBook({ databaseUrl: database.url, redisUrl, keyPrefix: `${randomUUID()}:`, log: () => {} })
    return () => book.close()
  })
  const get = async (path: string) => {
    const answer = await fetch(book.url + path)
    return { status: answer.status, headers: answer.headers, body: (await answer.json()) as never }
  }
  const getAs = async (address: string, path: string) => {
    const answer = await fetch(book.url + path, { headers: { 'x-forwarded-for': address } })
    return { status: answer.status, headers: answer.headers, body: (await answer.json()) as unknown }
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
    const answers = await Promise.all(
      Array.from({ length: 60 }, (_, index) => getAs(`203.0.113.${index % 12}`, `/plans/${(index % 40) + 1}/songs`)),
    )
    expect(answers.every(({ status, body }) => status === 200 && (body as unknown[]).length === 12)).toBe(true)
    await expect
      .poll(() => get('/debug/connections'))
      .toMatchObject({
        body: { openScopes: { request: 0 }, leases: [] },
      })
    expect((await get('/health/ready')).body).toMatchObject({ status: 'up' })
  })

  it.each([
    { path: '/plans/1/songs', limit: 60 },
    { path: '/songs/1', limit: 100 },
    { path: '/songs', limit: 100 },
  ])('lets a client ask for $path $limit times a minute, and others all the same', async ({ path, limit }) => {
    const [client, other] = ['198.51.100.1', '198.51.100.2']
    const startedAt = performance.now()
    let passed = 0
    while ((await getAs(client, path)).status === 200) passed++
    const cameBack = Math.ceil(((performance.now() - startedAt) * limit) / 60_000)
    expect(passed).toBeGreaterThanOrEqual(limit)
    expect(passed).toBeLessThanOrEqual(limit + cameBack)
    const answers = await Promise.all(Array.from({ length: 10 }, () => getAs(client, path)))
    const refused = answers.find(({ status }) => status !== 200)
    expect([refused?.status, refused?.body]).toMatchObject([429, { code: 'RSC_RATE_LIMIT_EXCEEDED' }])
    expect(refused?.headers.get('retry-after')).toBe('1')
    expect(refused?.headers.get('ratelimit-policy')).toBe(`"60s";q=${limit};w=60`)
    expect((await getAs(other, path)).status).toBe(200)
  })

  it('has a sheet of every plan that is kept, written by a job', async () => {
    const { location } = await post('/plans', { name: 'Sheet', songs: [2, 1] })
    const sheet = async () => {
      const answer = await fetch(book.url + location?.replace('/songs', '/sheet'))
      return answer.status === 200 ? answer.text() : ((await answer.json()) as { code: string }).code
    }
    await expect.poll(sheet, { timeout: 10_000 }).toContain('verse 4')
    expect((await sheet()).split('\n\n').map((song) => song.split('\n').length)).toEqual([5, 5])
    expect((await get('/plans/1000000/sheet')).status).toBe(404)
  })
})
