import { setTimeout as delay } from 'node:timers/promises'
import Fastify, { type FastifyInstance, type FastifyRequest } from 'fastify'
import postgres, { type ReservedSql } from 'postgres'
import type { Addresses } from '../src/incident.ts'

/** A request's session, as many frameworks have it: it begins a transaction with its first query, and commits at the end. */
class Session {
  #connection: Promise<ReservedSql> | undefined
  readonly #pool: postgres.Sql

  constructor(pool: postgres.Sql) {
    this.#pool = pool
  }

  async sql(): Promise<ReservedSql> {
    this.#connection ??= this.#pool.reserve().then(async (connection) => {
      await connection`begin`
      return connection
    })
    return this.#connection
  }

  async close(): Promise<void> {
    const connection = await this.#connection
    this.#connection = undefined
    if (connection === undefined) return
    await connection`commit`
    connection.release()
  }
}

/** Tells the search index what has changed; it takes a while. */
async function updateIndex(session: Session, productId: number): Promise<void> {
  await delay(20)
  const sql = await session.sql()
  await sql`select name from incident_products where id = ${productId}`
  await delay(20)
  await sql`update incident_products set indexed_at = now() where id = ${productId}`
}

export function open({ databaseUrl }: Addresses): FastifyInstance {
  const pool = postgres(databaseUrl, { max: 80, connection: { application_name: 'incident 5' } })
  const app = Fastify()
  const sessions = new WeakMap<FastifyRequest, Session>()
  app.addHook('onRequest', async (request) => void sessions.set(request, new Session(pool)))
  app.addHook('onResponse', async (request) => sessions.get(request)?.close())

  app.post<{ Params: { id: string } }>('/webhooks/products/:id', async (request) => {
    const session = sessions.get(request) as Session
    const sql = await session.sql()
    await sql`update incident_products set name = 'Tea' where id = ${Number(request.params.id)}`
    updateIndex(session, Number(request.params.id)).catch((error) => request.log.error(error))
    return { accepted: true }
  })
  return app
}
