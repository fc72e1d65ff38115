import { request as send } from 'node:http'
import { createScopes } from '@reqscope/core'
import { postgres } from '@reqscope/core/postgres'
import { sql } from 'drizzle-orm'
import { expect, it } from 'vitest'
import { Gate } from '../../core/test/gate.ts'
import { appWith, memoryLogger, ordersDatabase, portOf, schema } from './fixture.ts'

const database = await ordersDatabase()

it.each([
  ['HEAD', '/', 'RSC_SCOPE_ABORTED'],
  ['GET', '/', 'RSC_SCOPE_ABORTED'],
  ['GET', '/finish', 'done'],
] as const)(
  'a client that hangs up on %s %s ends its statements as the method or the route says',
  async (method, path, expected) => {
    const scopes = createScopes({
      resources: { db: postgres({ url: database.url, schema }) },
      logger: memoryLogger().logger,
    })
    const app = await appWith(scopes)
    const [begun, aborted, ended] = [new Gate(), new Gate(), new Gate<string>()]
    const handler = async (request: { scope: unknown }) => {
      const scope = request.scope as ReturnType<typeof scopes.open>
      scope.signal.addEventListener('abort', () => aborted.open())
      await scope.db.execute(sql`select 1`)
      begun.open()
      const seconds = path === '/' ? 30 : 0.1
      await scope.db.execute(sql`select pg_sleep(${seconds})`).then(
        () => ended.open('done'),
        (error: { code: string }) => ended.open(error.code),
      )
      await aborted.passed
      return 'done'
    }
    app.get('/', handler)
    app.get('/finish', { config: { scope: { onAbort: 'finish' } } }, handler)
    const outgoing = send({ port: await portOf(app), method, path }).on('error', () => {})
    outgoing.end()
    await begun.passed
    outgoing.destroy()
    expect(await ended.passed).toBe(expected)
    await aborted.passed
  },
)
