import { connect, type Socket } from 'node:net'
import { createScopes } from '@reqscope/core'
import { redis } from '@reqscope/core/redis'
import reqscope from '@reqscope/fastify-plugin'
import Fastify, { type FastifyInstance } from 'fastify'
import { load, outcomes, percentile } from './load.ts'

const QUIET_CLIENTS = 10
const SOCKETS = 8

export interface Flood {
  readonly alone: { readonly p99Ms: number; readonly outcomes: string }
  readonly flooded: { readonly p99Ms: number; readonly outcomes: string }
  /** How many requests a second the flood came to. */
  readonly sentPerSecond: number
}

/** An application whose clients may ask 200 times a second each, and one of them asks far more often. */
export async function limitedApp(redisUrl: string): Promise<FastifyInstance> {
  const app = Fastify({ trustProxy: '127.0.0.1' })
  await app.register(reqscope, { scopes: createScopes({ resources: { redis: redis({ url: redisUrl }) } }) })
  const rateLimit = { limit: 200, windowMs: 1_000 }
  app.get('/', { config: { scope: { rateLimit } } }, async () => ({ hello: 'world' }))
  return app
}

export async function flood(app: FastifyInstance, perSecond: number, seconds: number): Promise<Flood> {
  const url = await app.listen({ port: 0, host: '127.0.0.1' })
  try {
    await quiet(url, 0.5)
    const alone = await quiet(url, seconds)
    const flooding = startFlood(url, perSecond)
    await quiet(url, 0.5)
    const flooded = await quiet(url, seconds)
    return { alone: told(alone), flooded: told(flooded), sentPerSecond: flooding.stop() }
  } finally {
    await app.close()
  }
}

const told = (answers: Awaited<ReturnType<typeof quiet>>) => ({
  p99Ms: percentile(answers, 99),
  outcomes: outcomes(answers),
})

/** Ten clients, each from an address of its own, ten requests a second each. */
async function quiet(url: string, seconds: number) {
  const all = await Promise.all(
    Array.from({ length: QUIET_CLIENTS }, (_, index) =>
      load({ url, perSecond: 10, seconds, headers: { 'x-forwarded-for': `198.51.100.${index + 1}` } }),
    ),
  )
  return all.flat()
}

/** Pipelined over a few sockets, so that sending costs next to nothing. What comes back is thrown away. */
function startFlood(url: string, perSecond: number): { stop(): number } {
  const { port } = new URL(url)
  const one = 'GET / HTTP/1.1\r\nhost: flood\r\nx-forwarded-for: 203.0.113.66\r\n\r\n'
  const sockets: Socket[] = Array.from({ length: SOCKETS }, () => connect(Number(port), '127.0.0.1').resume())
  for (const socket of sockets) socket.on('error', () => {})
  const startedAt = performance.now()
  let sent = 0
  const timer = setInterval(() => {
    const due = Math.floor(((performance.now() - startedAt) / 1_000) * perSecond) - sent
    const each = Math.floor(due / SOCKETS)
    if (each === 0) return
    for (const socket of sockets) socket.write(one.repeat(each))
    sent += each * SOCKETS
  }, 10)
  return {
    stop() {
      clearInterval(timer)
      for (const socket of sockets) socket.destroy()
      return sent / ((performance.now() - startedAt) / 1_000)
    },
  }
}
