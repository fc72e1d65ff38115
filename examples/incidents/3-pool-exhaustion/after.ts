import { createScopes } from '@reqscope/core'
import { postgres } from '@reqscope/core/postgres'
import reqscope from '@reqscope/fastify-plugin'
import Fastify, { type FastifyInstance } from 'fastify'
import type { Addresses } from '../src/incident.ts'
import { POOL, SECONDS_A_STATEMENT } from './song-book.ts'

export async function open({ databaseUrl }: Addresses): Promise<FastifyInstance> {
  const scopes = createScopes({
    resources: { db: postgres({ url: databaseUrl, max: POOL, applicationName: 'songs' }) },
  })
  const app = Fastify()
  await app.register(reqscope, { scopes })

  const concurrency = { max: 12, maxQueued: 6, maxWaitMs: 100 }
  app.get<{ Params: { id: string } }>(
    '/songs/:id',
    { config: { scope: { timeoutMs: 2_000, concurrency } } },
    async ({ scope, params }) => {
      const id = Number(params.id)
      // One statement for what was five: the report of repeated statements had named the place.
      const [song] = await scope.db.$client`
        select 'song ' || ${id}::text as song, 'chords ' || ${id}::text as chords, 'author ' || ${id}::text as author,
          'tags ' || ${id}::text as tags, 'plans ' || ${id}::text as plans, pg_sleep(${SECONDS_A_STATEMENT})::text`
      return { id, ...song }
    },
  )
  return app
}
