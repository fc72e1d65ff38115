import Fastify, { type FastifyInstance } from 'fastify'
import postgres from 'postgres'
import type { Addresses } from '../src/incident.ts'
import { POOL, SECONDS_A_STATEMENT } from './song-book.ts'

export function open({ databaseUrl }: Addresses): FastifyInstance {
  const sql = postgres(databaseUrl, { max: POOL, connection: { application_name: 'songs' } })
  const app = Fastify()

  // Everything about a song is loaded when it is asked for, and the plans it is in while the answer is serialised.
  const lazily = (what: string, songId: number) =>
    sql<{ value: string }[]>`select ${what} || ${songId}::text as value, pg_sleep(${SECONDS_A_STATEMENT})::text`

  app.get<{ Params: { id: string } }>('/songs/:id', async ({ params }) => {
    const id = Number(params.id)
    const [song] = await lazily('song ', id)
    const [[chords], [author], [tags]] = await Promise.all([
      lazily('chords ', id),
      lazily('author ', id),
      lazily('tags ', id),
    ])
    return { id, song, chords, author, tags }
  })

  app.addHook('preSerialization', async (request, _reply, payload) => {
    const [plans] = await lazily('plans ', Number((request.params as { id: string }).id))
    return { ...(payload as object), plans }
  })
  return app
}
