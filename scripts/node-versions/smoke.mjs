// A small application on the packed packages, as a user would write it: run by each Node version that is supported.
// The last line says what came of it; the exit code is 1 unless all is well.
import assert from 'node:assert/strict'
import http from 'node:http'
import { createRequire } from 'node:module'
import { setTimeout as delay } from 'node:timers/promises'
import { createScopes, currentScope, isReqscopeError } from '@reqscope/core'
import { pin, postgres } from '@reqscope/core/postgres'
import * as onExpress from '@reqscope/express-adapter'
import reqscope from '@reqscope/fastify-plugin'
import { eq, sql } from 'drizzle-orm'
import { integer, pgTable, text } from 'drizzle-orm/pg-core'
import express from 'express'
import Fastify from 'fastify'

const notes = pgTable('notes', { id: integer().primaryKey().generatedAlwaysAsIdentity(), body: text().notNull() })
const db = postgres({ url: process.env.DATABASE_URL, schema: { notes }, max: 2, applicationName: 'node-versions' })
const scopes = createScopes({ resources: { db } })
// What is thrown outside of every request would be a crash in production.
for (const event of ['uncaughtException', 'unhandledRejection']) {
  process.on(event, (error) => {
    console.error(event, error)
    process.exit(1)
  })
}
setTimeout(() => {
  console.error('it hangs', scopes.snapshot())
  process.exit(1)
}, 30_000).unref()

// The oldest supported Node can require ESM.
assert.equal(createRequire(import.meta.url)('@reqscope/core').isReqscopeError, isReqscopeError)

await scopes.run({ name: 'migrate' }, async (scope) => {
  await scope.db.execute(sql`drop table if exists notes`)
  await scope.db.execute(sql`create table notes (id int primary key generated always as identity, body text not null)`)
})

const app = Fastify()
await app.register(reqscope, { scopes })
app.post('/notes', { config: { scope: { transaction: true } } }, async (request, reply) => {
  const [note] = await request.scope.db.insert(notes).values({ body: request.body.body }).returning()
  if (request.body.refuse) return reply.code(409).send({ refused: true })
  return note
})
app.get('/notes', async () => currentScope().db.query.notes.findMany())
app.get('/pinned', async ({ scope }) =>
  pin(scope.db, async () => {
    await scope.db.execute(sql`set work_mem = '5MB'`)
    return scope.db.execute(sql`show work_mem`)
  }),
)
app.get('/slow', async ({ scope }) => scope.db.execute(sql`select pg_sleep(30)`))
app.get('/late', { config: { scope: { timeoutMs: 100 } } }, async ({ scope }) =>
  scope.db.execute(sql`select pg_sleep(30)`),
)
app.get('/rows', async ({ scope }) => {
  let count = 0
  for await (const rows of scope.db.$client`select generate_series(1, 100)`.cursor(30)) count += rows.length
  return { count }
})
const origin = await app.listen({ port: 0, host: '127.0.0.1' })

const post = (body) =>
  fetch(`${origin}/notes`, {
    method: 'POST',
    body: JSON.stringify(body),
    headers: { 'content-type': 'application/json' },
  })
assert.equal((await post({ body: 'kept' })).status, 200)
assert.equal((await post({ body: 'dropped', refuse: true })).status, 409)
assert.deepEqual(
  (await (await fetch(`${origin}/notes`)).json()).map(({ body }) => body),
  ['kept'],
)
assert.deepEqual(await (await fetch(`${origin}/pinned`)).json(), [{ work_mem: '5MB' }])
assert.deepEqual(await (await fetch(`${origin}/rows`)).json(), { count: 100 })
const late = await fetch(`${origin}/late`)
assert.equal(late.status, 504)
assert.match(late.headers.get('content-type'), /^application\/problem\+json/)

// A client that goes away while its statement runs: the statement is cancelled and the connection comes back.
const aborted = http.get(`${origin}/slow`)
aborted.on('error', () => {})
while (!scopes.snapshot().leases.some(({ statement }) => statement?.includes('pg_sleep'))) await delay(5)
aborted.destroy()

await scopes.run({ name: 'nested' }, async (scope) => {
  await scope.transaction({ isolationLevel: 'serializable', retries: 1 }, async () => {
    await scope.db.update(notes).set({ body: 'changed' }).where(eq(notes.body, 'kept'))
    await assert.rejects(scope.db.transaction((tx) => tx.insert(notes).values({ id: 1, body: 'refused' })))
  })
})
for (const giveUpAt = Date.now() + 10_000; scopes.snapshot().openScopes.total > 0; await delay(5)) {
  assert.ok(Date.now() < giveUpAt, 'a scope stayed open')
}

// The same on Express, with the same runtime.
const songs = express()
songs.use(onExpress.health())
songs.use(onExpress.reqscope({ scopes }))
songs.post(
  '/notes',
  onExpress.concurrency({ max: 5 }),
  express.json(),
  onExpress.transactional(async (request, response) => {
    const [note] = await request.scope.db.insert(notes).values({ body: request.body.body }).returning()
    response.status(request.body.refuse ? 409 : 201).json(note)
  }),
)
songs.get('/notes', onExpress.rateLimit({ limit: 2, windowMs: 60_000 }), async (request, response) => {
  response.json(await request.scope.db.query.notes.findMany())
})
songs.get('/late', onExpress.scopeOptions({ timeoutMs: 100 }), async (request, response) => {
  response.json(await request.scope.db.execute(sql`select pg_sleep(30)`))
})
songs.use(onExpress.reqscopeErrors())
const server = http.createServer(songs)
const closeSongs = onExpress.onShutdown(server)
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
const songsOrigin = `http://127.0.0.1:${server.address().port}`
const postSong = (body) =>
  fetch(`${songsOrigin}/notes`, {
    method: 'POST',
    body: JSON.stringify(body),
    headers: { 'content-type': 'application/json' },
  })
assert.equal((await postSong({ body: 'sung' })).status, 201)
assert.equal((await postSong({ body: 'not sung', refuse: true })).status, 409)
assert.deepEqual(
  (await (await fetch(`${songsOrigin}/notes`)).json()).map(({ body }) => body),
  ['changed', 'sung'],
)
assert.equal((await fetch(`${songsOrigin}/notes`)).status, 200)
assert.equal((await fetch(`${songsOrigin}/notes`)).status, 429)
assert.equal((await fetch(`${songsOrigin}/late`)).status, 504)
assert.equal((await fetch(`${songsOrigin}/health/ready`)).status, 200)
for (const giveUpAt = Date.now() + 10_000; scopes.snapshot().openScopes.total > 0; await delay(5)) {
  assert.ok(Date.now() < giveUpAt, 'a scope of Express stayed open')
}

const { leases } = scopes.snapshot()
await closeSongs()
await app.close()
assert.deepEqual(leases, [])
console.log(`ok   Node ${process.version}`)
