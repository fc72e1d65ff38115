import { BullmqJobs } from './bullmq-jobs.ts'
import { type BullmqOptions, checkJobsOptions } from './options.ts'
import { PostgresTransport } from './transports/postgres.ts'
import { checkRedisTransport, RedisTransport } from './transports/redis.ts'

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
 * `transport: 'postgres'` BullMQ's own insert is part of the transaction, and no Redis is needed.
 *
 * @throws InvalidOptionError naming the option that is wrong.
 */
export function bullmq(options: BullmqOptions): BullmqJobs {
  const config = checkJobsOptions(options)
  if (options.transport === 'postgres') {
    const { connection, migrate = true } = options
    return new BullmqJobs(config, (_runtime, access) => new PostgresTransport(access, config, { connection, migrate }))
  }
  const redis = checkRedisTransport(options)
  return new BullmqJobs(config, (runtime, access) => new RedisTransport(runtime, access, config, redis))
}
