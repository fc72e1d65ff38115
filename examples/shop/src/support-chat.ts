import { currentScope } from '@reqscope/core'
import { Locked, Transactional } from '@reqscope/core/decorators'
import { desc, eq } from 'drizzle-orm'
import { supportMessages } from './schema.ts'

export type SupportMessage = typeof supportMessages.$inferSelect

/** A customer's chat with the support. Both sides write, from whatever instance of the shop they are connected to. */
export class SupportChat {
  /**
   * Reads where the chat is and writes behind it: two at once would take the same number, or lose a message. The lock is
   * given back after the commit, so the next one reads what was written.
   */
  @Locked({ key: (sessionId: string) => `support:session:${sessionId}`, ttlMs: 60_000, waitMs: 5_000 })
  @Transactional()
  async append(sessionId: string, author: string, text: string): Promise<SupportMessage> {
    const { db } = currentScope()
    const [last] = await db
      .select()
      .from(supportMessages)
      .where(eq(supportMessages.sessionId, sessionId))
      .orderBy(desc(supportMessages.number))
      .limit(1)
    const message = { sessionId, number: (last?.number ?? 0) + 1, author, text }
    const [written] = await db.insert(supportMessages).values(message).returning()
    return written as SupportMessage
  }
}
