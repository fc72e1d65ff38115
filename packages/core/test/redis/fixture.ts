import { randomUUID } from 'node:crypto'
import { type RedisServer, startRedis } from '@reqscope/services'
import { testRedis } from '@reqscope/services/testing'
import { Redis } from 'ioredis'
import { afterAll, onTestFinished } from 'vitest'
import { createScopes, type Scopes } from '../../src/index.ts'
import { type BoundRedis, type RedisOptions, redis, type ScriptDefinitions } from '../../src/redis/index.ts'
import type { Resource } from '../../src/scope/resource.ts'
import { type LogLine, memoryLogger } from '../memory-logger.ts'

export { failureOf, Gate } from '../gate.ts'

export type App<Scripts extends ScriptDefinitions = Record<never, never>> = Scopes<{
  redis: Resource<BoundRedis<Scripts>>
}> & { readonly logs: LogLine[]; readonly connectionName: string }

/** A key that no other test uses. */
export const key = (name = 'key') => `${name}:${randomUUID()}`

/** A runtime whose scopes have a `redis`, closed after the test; what it logs is kept. */
export async function redisApp<const Scripts extends ScriptDefinitions = Record<never, never>>(
  options: Partial<RedisOptions<Scripts>> = {},
): Promise<App<Scripts>> {
  const { logger, logs } = memoryLogger()
  const connectionName = `test-${randomUUID()}`
  const isElsewhere = options.client !== undefined || options.cluster !== undefined || options.sentinels !== undefined
  const resource = redis<Scripts>({
    ...(isElsewhere ? {} : { url: await testRedis() }),
    ...(options.client === undefined && { connection: { connectionName } }),
    ...options,
  })
  const scopes = createScopes({ resources: { redis: resource }, logger })
  onTestFinished(() => scopes.close({ timeoutMs: 1_000 }))
  await scopes.start()
  return Object.assign(scopes, { logs, connectionName })
}

/** A connection beside those under test. */
export async function outside(url?: string): Promise<Redis> {
  const client = new Redis(url ?? (await testRedis()))
  client.on('error', () => {})
  whenOver(() => client.disconnect())
  return client
}

/** A server of the test's own, to stop and kill. */
export async function ownServer(): Promise<RedisServer> {
  const server = await startRedis({ own: true })
  whenOver(() => server.stop())
  return server
}

const whenTheFileIsOver: (() => unknown)[] = []
afterAll(async () => {
  for (const cleanUp of whenTheFileIsOver.reverse()) await cleanUp()
})

function whenOver(cleanUp: () => unknown): void {
  try {
    onTestFinished(async () => void (await cleanUp()))
  } catch {
    whenTheFileIsOver.push(cleanUp)
  }
}

export type ClientFacts = Readonly<Record<string, string>>

/** The application's connections, as the server sees them. */
export async function clientsOf(app: { connectionName: string }, watch: Redis): Promise<ClientFacts[]> {
  const list = (await watch.client('LIST')) as string
  return list
    .trim()
    .split('\n')
    .map((line) => Object.fromEntries(line.split(' ').map((fact) => fact.split(/=(.*)/s).slice(0, 2))) as ClientFacts)
    .filter((facts) => facts.name === app.connectionName)
}

export interface Counts {
  readonly max: number
  readonly open: number
  readonly idle: number
  readonly leased: number
  readonly waiting: number
}

/** What the pool of exclusive connections says of itself. */
export async function poolOf(app: App<never> | App): Promise<Counts> {
  const { redis: health } = (await app.health()).resources as unknown as { redis: { exclusive: Counts[] } }
  return health.exclusive[0] as Counts
}
