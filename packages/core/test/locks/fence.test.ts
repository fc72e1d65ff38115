import { connect } from '@reqscope/services'
import { testDatabase } from '@reqscope/services/testing'
import { and, eq } from 'drizzle-orm'
import { bigint, pgTable, text } from 'drizzle-orm/pg-core'
import { expect, it, onTestFinished } from 'vitest'
import { createScopes, InvalidOptionError, LockLostError } from '../../src/index.ts'
import { fenced } from '../../src/locks/index.ts'
import { postgres } from '../../src/postgres/index.ts'
import { memoryLogger } from '../memory-logger.ts'
import { failureOf, freshKey, Gate } from './fixture.ts'

const sessions = pgTable('sessions', {
  id: text('id').primaryKey(),
  words: text('words').notNull(),
  fence: bigint('fence', { mode: 'number' }),
})

const database = await testDatabase()
const sql = connect(database.url)
await sql`create table sessions (id text primary key, words text not null, fence bigint)`
await sql.end()

function app() {
  const scopes = createScopes({
    resources: { db: postgres({ url: database.url, schema: { sessions } }) },
    logger: memoryLogger().logger,
  })
  onTestFinished(() => scopes.close({ timeoutMs: 1_000 }))
  const write = (id: string, words: string, fence: number) =>
    scopes.run({ name: 'write' }, (scope) =>
      scope.db
        .update(sessions)
        .set({ words, fence })
        .where(and(eq(sessions.id, id), fenced(sessions.fence, fence)))
        .returning(),
    )
  const insert = (id: string, fence: number | null) =>
    scopes.run({ name: 'insert' }, (scope) => scope.db.insert(sessions).values({ id, words: '', fence }))
  return { scopes, write, insert }
}

it('lets the first holder write, and every later one', async () => {
  const { write, insert } = app()
  const id = freshKey()
  await insert(id, null)
  expect(await write(id, 'first', 1_760_000_000_000_001)).toHaveLength(1)
  expect(await write(id, 'again', 1_760_000_000_000_001)).toHaveLength(1)
  expect(await write(id, 'later', 1_760_000_000_000_002)).toEqual([
    { id, words: 'later', fence: 1_760_000_000_000_002 },
  ])
})

it('refuses the write of a holder that was overtaken, with LockLostError, and changes nothing', async () => {
  const { scopes, write, insert } = app()
  const id = freshKey()
  await insert(id, 20)
  const error = await failureOf(write(id, 'stale', 19))
  expect(error).toBeInstanceOf(LockLostError)
  expect(error).toMatchObject({ reason: 'stale-fence', cause: { code: '22P02' } })
  const [row] = await scopes.run({ name: 'read' }, (scope) =>
    scope.db.select().from(sessions).where(eq(sessions.id, id)),
  )
  expect(row).toEqual({ id, words: '', fence: 20 })
})

it('looks at the rows of the write only, also where the table is read from end to end', async () => {
  const { scopes, write, insert } = app()
  const ids = Array.from({ length: 20 }, freshKey)
  for (const id of ids) await insert(id, 1_000)
  const mine = freshKey()
  await insert(mine, 5)
  await scopes.run({ name: 'write' }, (scope) =>
    scope.transaction(async () => {
      await scope.db.$client`set local enable_indexscan = off`
      await scope.db.$client`set local enable_bitmapscan = off`
      // The fence first, to see that the order they are written in does not matter.
      const written = await scope.db
        .update(sessions)
        .set({ words: 'mine' })
        .where(and(fenced(sessions.fence, 6), eq(sessions.id, mine)))
        .returning()
      expect(written).toHaveLength(1)
    }),
  )
  expect(await write(freshKey(), 'nobody', 1)).toEqual([])
})

it('refuses a holder whose statement waited for the row while a later one wrote it', async () => {
  const { scopes, write, insert } = app()
  const id = freshKey()
  await insert(id, 1)
  const gate = new Gate()
  const written = new Gate()
  const later = scopes.run({ name: 'later' }, (scope) =>
    scope.transaction(async () => {
      await scope.db.update(sessions).set({ words: 'later', fence: 9 }).where(eq(sessions.id, id))
      written.open()
      await gate.passed
    }),
  )
  await written.passed
  const stale = failureOf(write(id, 'stale', 8))
  gate.open()
  await later
  expect(await stale).toMatchObject({ code: 'RSC_LOCK_LOST', reason: 'stale-fence' })
})

it('refuses what is no fence', () => {
  for (const fence of [undefined, 0, 1.5, '7']) {
    expect(() => fenced(sessions.fence, fence as never)).toThrow(InvalidOptionError)
  }
})
