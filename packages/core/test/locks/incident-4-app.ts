// An instance of the app of the incident: appends messages to chat sessions, reading a session and writing it back.
import { eq } from 'drizzle-orm'
import { jsonb, pgTable, text } from 'drizzle-orm/pg-core'
import { Locked } from '../../src/decorators/index.ts'
import { createScopes, currentScope } from '../../src/index.ts'
import { type BoundDatabase, postgres } from '../../src/postgres/index.ts'
import { redis as redisResource } from '../../src/redis/index.ts'

const sessions = pgTable('chat_sessions', { id: text('id').primaryKey(), messages: jsonb('messages').notNull() })

const options = JSON.parse(process.argv[2] ?? '') as {
  readonly name: string
  readonly redis: string
  readonly postgres: string
  readonly sessions: number
  readonly appends: number
  readonly lock: 'reqscope' | 'mutex'
}
const db = postgres({ url: options.postgres, schema: { sessions }, max: 4 })
const scopes = createScopes({ resources: { db, redis: redisResource({ url: options.redis }) } })

class Chat {
  @Locked({ key: (sessionId: string) => `chat:session_lock:${sessionId}`, ttlMs: 60_000, waitMs: 60_000 })
  async append(sessionId: string, message: string): Promise<void> {
    await this.appendUnlocked(sessionId, message)
  }

  async appendUnlocked(sessionId: string, message: string): Promise<void> {
    const { db } = currentScope() as unknown as { db: BoundDatabase<{ sessions: typeof sessions }> }
    const [session] = await db.select().from(sessions).where(eq(sessions.id, sessionId))
    const messages = [...((session?.messages ?? []) as string[]), message]
    await db.update(sessions).set({ messages }).where(eq(sessions.id, sessionId))
  }
}

/** What the app had: a lock that only this instance sees. */
const mutexes = new Map<string, Promise<unknown>>()
function withMutex(key: string, fn: () => Promise<void>): Promise<void> {
  const turn = (mutexes.get(key) ?? Promise.resolve()).then(fn)
  mutexes.set(key, turn)
  return turn
}

const chat = new Chat()
let next = 0
async function client(): Promise<void> {
  for (let index = next++; index < options.appends; index = next++) {
    const sessionId = `s${index % options.sessions}`
    const message = `${options.name} ${index}`
    await scopes.run({ name: 'POST /chat' }, () =>
      options.lock === 'reqscope'
        ? chat.append(sessionId, message)
        : withMutex(sessionId, () => chat.appendUnlocked(sessionId, message)),
    )
  }
}

await scopes.start()
process.stdout.write('ready\n')
process.stdin.once('data', async () => {
  await Promise.all(Array.from({ length: 8 }, client))
  await scopes.close({ timeoutMs: 2_000 })
  process.exit(0)
})
