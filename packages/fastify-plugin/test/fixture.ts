import { createScopes, defineResource, type Resources, type Scopes } from '@reqscope/core'
import { connect } from '@reqscope/services'
import { type TestDatabase, testDatabase } from '@reqscope/services/testing'
import { integer, pgTable, serial } from 'drizzle-orm/pg-core'
import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import { onTestFinished } from 'vitest'
import { memoryLogger } from '../../core/test/memory-logger.ts'
import reqscope from '../src/index.ts'

export { memoryLogger }

export const orders = pgTable('orders', { id: serial('id').primaryKey(), total: integer('total').notNull() })
export const schema = { orders }

export async function ordersDatabase(): Promise<TestDatabase> {
  const database = await testDatabase()
  const sql = connect(database.url)
  await sql`create table orders (id serial primary key, total integer not null check (total > 0))`
  await sql.end()
  return database
}

/** A runtime whose scopes have a `thing`; how each was released is kept. */
export function thingScopes() {
  const released: string[] = []
  const scopes = createScopes({
    resources: {
      thing: defineResource({
        handle: (scope) => ({ owner: scope.id }),
        release: (_thing, outcome) => void released.push(outcome.tag),
      }),
    },
    logger: memoryLogger().logger,
  })
  return { scopes, released }
}

/** An application that is closed after the test. */
export function bareApp(options: FastifyServerOptions = {}): FastifyInstance {
  const app = Fastify(options)
  onTestFinished(() => app.close())
  return app
}

export async function appWith<R extends Resources>(
  scopes: Scopes<R>,
  options: FastifyServerOptions = {},
): Promise<FastifyInstance> {
  const app = bareApp(options)
  await app.register(reqscope, { scopes })
  return app
}

export async function portOf(app: FastifyInstance): Promise<number> {
  await app.listen({ port: 0, host: '127.0.0.1' })
  return (app.server.address() as { port: number }).port
}
