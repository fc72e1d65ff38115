import { InvalidOptionError } from '../errors.ts'
import type { PostgresAccess } from '../postgres/access.ts'
import { BullmqJobs } from './bullmq-jobs.ts'
import {
  type BullmqOptions,
  checkJobsOptions,
  checkPostgresTransport,
  checkRedisTransport,
  type PostgresTransportConfig,
} from './options.ts'

export type { Enqueueable, EnqueueOptions, WorkOptions } from '../scope/job.ts'
export type { Json, NotJson } from '../scope/json.ts'
export { defineJob, type JobDefinition, type JobRunContext, type JobSettings } from './define-job.ts'
export type { BullmqOptions, OutboxOptions, PostgresTransportOptions, RedisTransportOptions } from './options.ts'
export { outboxMigration } from './outbox.ts'
export type { StandardSchema } from './standard-schema.ts'
export type { BullmqWorkers } from './worker.ts'
export type { BullmqJobs }

/**
 * Jobs through BullMQ: `createScopes({ resources, jobs: bullmq({ url }) })`.
 *
 * On Redis (default) a job that is enqueued in a transaction goes through an outbox table of the Postgres resource; with
 * `transport: 'postgres'` BullMQ's own insert is part of the transaction, and no Redis is needed. Needs ioredis or pg
 * accordingly, which are loaded when the runtime starts.
 *
 * @throws InvalidOptionError naming the option that is wrong.
 */
export function bullmq(options: BullmqOptions): BullmqJobs {
  const config = checkJobsOptions(options)
  if (options.transport === 'postgres') {
    const given = checkPostgresTransport(options)
    return new BullmqJobs(config, (_runtime, access) => {
      const connection = given.connection ?? connectionOf(access)
      return async () => {
        const { PostgresTransport } = await import('./transports/postgres.ts')
        return new PostgresTransport(access, config, { ...given, connection })
      }
    })
  }
  const given = checkRedisTransport(options)
  return new BullmqJobs(config, (runtime, access) => async () => {
    const { RedisTransport } = await import('./transports/redis.ts')
    return new RedisTransport(runtime, access, config, given)
  })
}

function connectionOf(access: PostgresAccess | undefined): NonNullable<PostgresTransportConfig['connection']> {
  if (access === undefined) {
    throw new InvalidOptionError(
      'bullmq.connection',
      undefined,
      'given on the postgres transport, or a postgres(…) among the resources',
    )
  }
  const { password, ...target } = access.target()
  return { ...target, ...(password !== undefined && { password }) }
}
