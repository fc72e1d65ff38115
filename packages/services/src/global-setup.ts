import type { TestProject } from 'vitest/node'
import { startPostgres } from './postgres.ts'
import { startRedis } from './redis.ts'
import { SHARED } from './shared-servers.ts'

/** Starts one Postgres and one Redis for a whole vitest run. */
export default async function startServers(project: TestProject): Promise<() => Promise<unknown>> {
  const log = (line: string) => process.stderr.write(`${line}\n`)
  const [postgres, redis] = await Promise.all([startPostgres({ log }), startRedis({ log })])
  process.env[SHARED.postgres] = postgres.url
  process.env[SHARED.redis] = redis.url
  project.provide('postgresUrl', postgres.url)
  project.provide('redisUrl', redis.url)
  return () => Promise.all([postgres.stop(), redis.stop()])
}
