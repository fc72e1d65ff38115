import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { Sql } from 'postgres'
import { describe, expect, it, onTestFinished } from 'vitest'
import { checkPostgresOptions } from '../../src/postgres/options.ts'
import { readUrl } from '../../src/postgres/url.ts'
import { SECRET, shown } from './connect-fixture.ts'
import { accountsDatabase, appOn, backendOf, failureOf } from './fixture.ts'

const database = await accountsDatabase()

/** The server, behind a unix socket in a folder of its own. */
async function socketFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'reqscope-'))
  const target = new URL(database.url)
  const sockets: net.Socket[] = []
  const server = net.createServer((socket) => {
    const upstream = net.connect(Number(target.port), target.hostname).on('error', () => {})
    sockets.push(
      socket.on('error', () => {}),
      upstream,
    )
    socket.pipe(upstream).pipe(socket)
  })
  server.listen(join(folder, '.s.PGSQL.5433'))
  await once(server, 'listening')
  onTestFinished(async () => {
    for (const socket of sockets) socket.destroy()
    server.close()
    await rm(folder, { recursive: true })
  })
  return folder
}

const credentials = () => {
  const { username, password, pathname } = new URL(database.url)
  return { start: `postgres://${username}:${password}@`, path: pathname }
}

describe('a unix socket', () => {
  it.each<[string, (folder: string) => string]>([
    ['as the parameter host', (folder) => `/?host=${folder}&port=5433`],
    ['as the parameter host, with its port', (folder) => `/?host=${encodeURIComponent(folder)}:5433`],
    ['percent-encoded as the host', (folder) => `${encodeURIComponent(folder)}/?port=5433`],
  ])('is named by its folder in the URL, %s', async (_name, rest) => {
    const folder = await socketFolder()
    const { start, path } = credentials()
    const url = `${start}${rest(folder).replace('/?', `${path}?`)}`
    expect(await appOn(url).run({ name: 'looks' }, backendOf)).toBeGreaterThan(0)
  })

  it('takes cancel requests as well', async () => {
    const folder = await socketFolder()
    const { start, path } = credentials()
    const app = appOn(`${start}${path}?host=${folder}&port=5433`)
    const sleep = (scope: { db: { $client: Sql } }) => scope.db.$client`select pg_sleep(30)`.execute()
    expect(await failureOf(app.run({ name: 'sleeps', timeoutMs: 100 }, sleep))).toMatchObject({
      code: 'RSC_DEADLINE_EXCEEDED',
    })
    for (let active = 1; active > 0; await delay(10)) {
      const rows =
        await database.watch`select 1 from pg_stat_activity where query like '%pg_sleep(30)%' and state = 'active' and pid <> pg_backend_pid()`
      active = rows.length
    }
  })
})

describe('an IPv6 address', () => {
  it('stands in brackets, among several hosts too, and is shown so', async () => {
    const url = `postgres://clerk:${SECRET}@[::1]:6001,db.example:6002,[fe80::1]/shop?sslmode=disable`
    expect(checkPostgresOptions({ url }).target).toMatchObject({
      endpoints: [
        { host: '::1', port: 6001 },
        { host: 'db.example', port: 6002 },
        { host: 'fe80::1', port: 5432 },
      ],
      user: 'clerk',
      database: 'shop',
    })
    const error = await failureOf(appOn(`postgres://clerk:${SECRET}@[::1]:1/shop`).start())
    expect(error).toMatchObject({ code: 'RSC_CONNECTION_LOST', message: expect.stringContaining('[::1]:1 (db)') })
    expect(shown(error)).not.toContain(SECRET)
  })

  it.each(['[nonsense]', '[::1]:port', '[::1],', '[::1]x'])('that is none (%s) is refused at the start', (host) => {
    expect(() => checkPostgresOptions({ url: `postgres://clerk:${SECRET}@${host}/shop` })).toThrow(/postgres\.url/)
  })
})

it('channel_binding, which providers put into their URLs, is not taken for a setting of the server', async () => {
  const app = appOn(`${database.url}?channel_binding=require&application_name=elsewhere`)
  expect(await app.run({ name: 'looks' }, backendOf)).toBeGreaterThan(0)
  expect(readUrl(`${database.url}?channel_binding=prefer`)?.url).toBe(database.url)
})

it('an sslmode that nobody knows is named as the URL parameter it is', () => {
  expect(() => checkPostgresOptions({ url: `${database.url}?sslmode=strict` })).toThrow(
    /postgres\.url.*with an sslmode that is/,
  )
})
