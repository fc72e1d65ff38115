import { InvalidOptionError } from '../errors.ts'
import type { PostgresAccess, PostgresTarget } from '../postgres/access.ts'
import { hasRedisSettings, type RedisSettings, redisSettings } from '../redis/access.ts'
import type { JobRuntime } from '../scope/job.ts'
import { BullmqJobs } from './bullmq-jobs.ts'
import { type BullmqOptions, checkJobsOptions, checkPostgresTransport, checkRedisTransport } from './options.ts'

export type { Enqueueable, EnqueueOptions, WorkOptions } from '../scope/job.ts'
export type { Json, NotJson } from '../scope/json.ts'
export { defineJob, type JobDefinition, type JobRunContext, type JobSettings } from './define-job.ts'
export type { BullmqOptions, OutboxOptions, PostgresTransportOptions, RedisTransportOptions } from './options.ts'
export { outboxMigration } from './outbox.ts'
export type { StandardSchema } from './standard-schema.ts'
export type { BullmqWorkers } from './worker.ts'
export type { BullmqJobs }

/**
 * Jobs through BullMQ: `createScopes({ resources, jobs: bullmq() })`.
 *
 * On Redis (default) a job that is enqueued in a transaction goes through an outbox table of the Postgres resource; with
 * `transport: 'postgres'` BullMQ's own insert is part of the transaction, and no Redis is needed. Where the server is, the
 * runtime's `redis(…)` or `postgres(…)` says, unless it is given here; the connections are the jobs' own. Needs ioredis or
 * pg accordingly, which are loaded when the runtime starts.
 *
 * @throws InvalidOptionError naming the option that is wrong.
 */
export function bullmq(options: BullmqOptions = {}): BullmqJobs {
  const config = checkJobsOptions(options)
  if (options.transport === 'postgres') {
    const given = checkPostgresTransport(options)
    return new BullmqJobs(config, (_runtime, access) => {
      const place = given.connection === undefined ? targetOf(access) : given.connection
      return async () => {
        const { PostgresTransport } = await import('./transports/postgres.ts')
        return new PostgresTransport(access, config, place, given.migrate)
      }
    })
  }
  const given = checkRedisTransport(options)
  return new BullmqJobs(config, (runtime, access) => {
    const shared = given.source === undefined ? onlyRedisOf(runtime) : undefined
    return async () => {
      const { RedisTransport } = await import('./transports/redis.ts')
      return new RedisTransport(runtime, access, config, given, given.source ?? { connection: shared?.[redisSettings] })
    }
  })
}

function targetOf(access: PostgresAccess | undefined): PostgresTarget {
  if (access !== undefined) return access.target()
  throw new InvalidOptionError(
    'bullmq.connection',
    undefined,
    'given on the postgres transport, or a postgres(…) among the resources',
  )
}

/** @throws InvalidOptionError where there is none, or more than one, or a cluster. */
function onlyRedisOf({ resources }: JobRuntime): RedisSettings {
  const found = (Object.values(resources) as unknown[]).filter(hasRedisSettings)
  const [first] = found
  if (first === undefined || found.length > 1) {
    throw new InvalidOptionError(
      'bullmq.url',
      undefined,
      `given on the redis transport, or connection, unless there is one redis(…) among the resources: there are ${found.length}`,
    )
  }
  if (first[redisSettings] === undefined) {
    throw new InvalidOptionError('bullmq.url', undefined, 'given: the redis(…) of the resources is a cluster')
  }
  return first
}
