import { createScopes } from '@reqscope/core'
import { postgres } from '@reqscope/core/postgres'
import { redis } from '@reqscope/core/redis'
import reqscope from '@reqscope/fastify-plugin'
import Fastify, { type FastifyInstance } from 'fastify'
import type { Sql } from 'postgres'
import { type Answer, load, outcomes } from './load.ts'

/** What a request may take; nothing may hang for longer, whatever is down. */
export const DEADLINE_MS = 1_000
const BEFORE_SECONDS = 1
const AFTER_SECONDS = 4

export interface Killable {
  kill(signal: 'SIGKILL'): void
  restart(): Promise<void>
}

export interface Outage {
  readonly requests: number
  readonly outcomes: string
  readonly longestMs: number
  /** From the moment the server was back until the last error, in milliseconds. */
  readonly recoveredAfterMs: number
  readonly leasesLeft: number
  readonly openScopesLeft: number
}

export async function shopLike(databaseUrl: string, redisUrl: string): Promise<FastifyInstance> {
  const app = Fastify()
  const resources = {
    db: postgres({ url: databaseUrl, max: 5, connectTimeoutMs: 500, acquireTimeoutMs: 800 }),
    redis: redis({ url: redisUrl }),
  }
  await app.register(reqscope, { scopes: createScopes({ resources }) })
  const rateLimit = { limit: 100_000, windowMs: 60_000 }
  app.get('/', { config: { scope: { timeoutMs: DEADLINE_MS, rateLimit } } }, async (request) => {
    const { $client } = (request.scope as unknown as { db: { $client: Sql } }).db
    const [row] = await $client`select 1 as one`
    return row
  })
  return app
}

/** Kills a server under load, brings it back after so many seconds, and looks at what the clients saw. */
export async function outage(app: FastifyInstance, server: Killable, downSeconds: number): Promise<Outage> {
  const url = await app.listen({ port: 0, host: '127.0.0.1' })
  try {
    const startedAt = performance.now()
    const loading = load({ url, perSecond: 100, seconds: BEFORE_SECONDS + downSeconds + AFTER_SECONDS })
    await new Promise((resolve) => setTimeout(resolve, BEFORE_SECONDS * 1_000))
    server.kill('SIGKILL')
    await new Promise((resolve) => setTimeout(resolve, downSeconds * 1_000))
    await server.restart()
    const backAt = performance.now() - startedAt
    const answers = await loading
    const last = answers.reduce(
      (latest, each: Answer) => (each.status === 200 ? latest : Math.max(latest, each.answeredAt)),
      0,
    )
    const { leases, openScopes } = app.scopes.snapshot()
    return {
      requests: answers.length,
      outcomes: outcomes(answers),
      longestMs: Math.max(...answers.map(({ tookMs }) => tookMs)),
      recoveredAfterMs: Math.max(0, last - backAt),
      leasesLeft: leases.filter(({ state }) => state !== 'idle').length,
      openScopesLeft: openScopes.total,
    }
  } finally {
    await app.close()
  }
}
