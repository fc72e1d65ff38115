import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { connect as connectTcp } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { connect, createDatabase, type PostgresOptions, type PostgresServer, startPostgres } from '../src/index.ts'
import { observer, testDatabase, testServer } from '../src/testing.ts'

async function ownServer(options: PostgresOptions = {}): Promise<PostgresServer> {
  const server = await startPostgres({ own: true, ...options })
  onTestFinished(() => server.stop())
  return server
}

async function ask<T>(url: string, text: string): Promise<T[]> {
  const sql = connect(url)
  try {
    return await sql.unsafe<T[] & Record<string, unknown>[]>(text)
  } finally {
    await sql.end({ timeout: 1 })
  }
}

function accepts(url: string): Promise<boolean> {
  const { hostname, port } = new URL(url)
  return new Promise((resolve) => {
    const socket = connectTcp({ host: hostname, port: Number(port) })
    socket.once('connect', () => resolve(socket.destroy() !== undefined)).once('error', () => resolve(false))
  })
}

describe('an embedded Postgres', () => {
  it('answers as soon as it has started, and leaves nothing behind when it stops', async () => {
    const server = await ownServer()
    expect(await ask(server.url, 'select 1 as one')).toEqual([{ one: 1 }])
    expect(existsSync(server.dataFolder as string)).toBe(true)
    await server.stop()
    expect(await accepts(server.url)).toBe(false)
    expect(existsSync(server.dataFolder as string)).toBe(false)
    expect(server.pid).toBeUndefined()
  })

  it('keeps its port and its data through a restart', async () => {
    const server = await ownServer()
    await ask(server.url, 'create table kept as select 42 as answer')
    const { url, pid } = server
    await server.restart()
    expect(server.url).toBe(url)
    expect(server.pid).not.toBe(pid)
    expect(await ask(url, 'select * from kept')).toEqual([{ answer: 42 }])
  })

  it('recovers what was committed after its postmaster was killed', async () => {
    const server = await ownServer()
    await ask(server.url, 'create table kept as select 42 as answer; checkpoint; insert into kept values (43)')
    server.kill('SIGKILL')
    await server.restart()
    expect(await ask(server.url, 'select * from kept')).toEqual([{ answer: 42 }, { answer: 43 }])
  })

  it('finds its data again in a folder that was named', async () => {
    const dataFolder = mkdtempSync(join(tmpdir(), 'reqscope-kept-'))
    onTestFinished(() => rmSync(dataFolder, { recursive: true }))
    const first = await startPostgres({ own: true, dataFolder })
    await ask(first.url, 'create table kept as select 42 as answer')
    await first.stop()
    const second = await ownServer({ dataFolder })
    expect(await ask(second.url, 'select * from kept')).toEqual([{ answer: 42 }])
  })

  it('refuses a wrong password', async () => {
    const server = await ownServer()
    const url = new URL(server.url)
    url.password = 'wrong'
    await expect(ask(url.href, 'select 1')).rejects.toMatchObject({ code: '28P01' })
  })

  it('serves TLS with its certificate, and refuses plain connections where TLS is required', async () => {
    const server = await ownServer({ tls: 'required' })
    expect(server.certificate).toContain('BEGIN CERTIFICATE')
    const ssl = 'select ssl from pg_stat_ssl where pid = pg_backend_pid()'
    expect(await ask(server.url, ssl)).toEqual([{ ssl: true }])
    await expect(ask(`${server.url}?sslmode=disable`, ssl)).rejects.toMatchObject({ code: '28000' })
  })

  it('takes settings', async () => {
    const server = await ownServer({ settings: { max_connections: '17', fsync: 'on' } })
    expect(await ask(server.url, 'show max_connections')).toEqual([{ max_connections: '17' }])
  })

  it('says what Postgres said when it cannot start', async () => {
    await expect(startPostgres({ settings: { max_connections: 'many' } })).rejects.toThrow(/max_connections/)
  })

  it('lets several start at the same time', async () => {
    const servers = await Promise.all([ownServer(), ownServer(), ownServer()])
    expect(new Set(servers.map(({ url }) => url)).size).toBe(3)
  })
})

describe('a test database', () => {
  it('is a fresh one on the server of the run', async () => {
    const database = await testDatabase()
    expect(new URL(database.url).port).toBe(new URL(await testServer()).port)
    expect(await ask(database.url, "select count(*)::int from pg_tables where schemaname = 'public'")).toEqual([
      { count: 0 },
    ])
  })

  it('is a copy of its template, also when several are made at once', async () => {
    const template = await testDatabase()
    await ask(template.url, 'create table seeds as select 7 as seed')
    const copies = await Promise.all([1, 2, 3].map(() => testDatabase({ template: template.name })))
    for (const { url } of copies) expect(await ask(url, 'select * from seeds')).toEqual([{ seed: 7 }])
  })

  it('is dropped although somebody is still connected', async () => {
    const database = await createDatabase(await testServer())
    const sql = observer(database)
    await sql`select 1`
    await database.drop()
    const left = await ask(await testServer(), `select 1 from pg_database where datname = '${database.name}'`)
    expect(left).toEqual([])
  })

  it('shows an observer what happens in it', async () => {
    const database = await testDatabase()
    const sql = observer(database)
    const watched = connect(database.url, 'watched')
    await watched`select 'seen'`
    const rows = await sql`select state from pg_stat_activity where application_name = 'watched'`
    expect(rows).toEqual([{ state: 'idle' }])
    await watched.end()
  })
})

describe('an external Postgres', () => {
  it('is used, and never touched, when DATABASE_URL names one', async () => {
    process.env.DATABASE_URL = await testServer()
    onTestFinished(() => {
      delete process.env.DATABASE_URL
    })
    const server = await startPostgres()
    expect(server).toMatchObject({ url: process.env.DATABASE_URL, external: true, pid: undefined })
    expect(() => server.kill('SIGKILL')).toThrow(/own: true/)
    await server.stop()
    expect(await ask(server.url, 'select 1 as one')).toEqual([{ one: 1 }])
  })
})
