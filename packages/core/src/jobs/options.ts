import type { DefaultJobOptions, Telemetry } from 'bullmq'
import type { Redis, RedisOptions } from 'ioredis'
import type { PoolConfig } from 'pg'
import { InvalidOptionError, UNSHOWN } from '../errors.ts'
import { OptionReader } from '../options.ts'

interface CommonOptions {
  /** The runtime's Postgres resource whose transactions jobs belong to. Default: the only one there is. */
  readonly resource?: string
  /** How large the JSON of one job's data may be, in bytes. Default 262,144 (256 KiB). */
  readonly maxPayloadBytes?: number
  /**
   * BullMQ's options for every job. Default: `removeOnComplete` after an hour or beyond 1,000, `removeOnFail` after a week.
   */
  readonly defaultJobOptions?: DefaultJobOptions
  /** BullMQ's telemetry: carries trace context and baggage from whoever enqueues to the job, also through a transaction. */
  readonly telemetry?: Telemetry
  /**
   * How often a job is taken over from a worker that crashed while it ran, before it fails. Default 10; BullMQ's own is 1,
   * and then a job that was running during two crashes is never run to its end.
   */
  readonly maxStalledCount?: number
  /** How long a worker's lock on a job lasts without being renewed, in milliseconds. Default 30,000. */
  readonly lockDurationMs?: number
  /** How often workers look for jobs of workers that crashed, in milliseconds. Default 30,000. */
  readonly stalledIntervalMs?: number
  /** How long a cancelled job may go on before it is abandoned and its leases are taken back, in milliseconds. Default 5,000. */
  readonly abandonAfterMs?: number
}

export interface OutboxOptions {
  /** The table's name, perhaps with a schema: `ops.reqscope_outbox`. Default `reqscope_outbox`. */
  readonly table?: string
  /** Creates the table at the start where it is missing. Default true. */
  readonly create?: boolean
  /** How often the sweeper looks for rows that were left behind, in milliseconds. Default 2,000. */
  readonly sweepIntervalMs?: number
  /** How old a row is before the sweeper takes it, in milliseconds: the process that wrote it is quicker. Default 2,000. */
  readonly sweepAfterMs?: number
}

/** BullMQ on Redis: jobs that are enqueued in a transaction go through an outbox table. */
export interface RedisTransportOptions extends CommonOptions {
  readonly transport?: 'redis'
  /** `redis://user:password@host:6379/0`. Default: where the runtime's only Redis resource is. */
  readonly url?: string
  /** ioredis's options, or a client whose options are copied; it is neither used nor closed. */
  readonly connection?: RedisOptions | Redis
  /** The prefix of all keys. Default `bull`. */
  readonly prefix?: string
  /** How long Redis may take to answer, in milliseconds. Default 5,000. */
  readonly commandTimeoutMs?: number
  readonly outbox?: OutboxOptions
}

/** BullMQ on Postgres: no Redis, and a job that is enqueued in a transaction is part of it. */
export interface PostgresTransportOptions extends CommonOptions {
  readonly transport: 'postgres'
  /** Default: where the runtime's Postgres resource is; BullMQ's schema has to be in that database. */
  readonly connection?: PoolConfig
  /** Creates or upgrades BullMQ's schema (`bullmq`) at the start. Default true. */
  readonly migrate?: boolean
}

export type BullmqOptions = RedisTransportOptions | PostgresTransportOptions

export interface JobsConfig {
  readonly resource: string | undefined
  readonly maxPayloadBytes: number
  readonly defaultJobOptions: DefaultJobOptions
  readonly telemetry: Telemetry | undefined
  readonly maxStalledCount: number
  readonly lockDurationMs: number
  readonly stalledIntervalMs: number
  readonly abandonAfterMs: number
}

const COMMON = [
  'transport',
  'connection',
  'resource',
  'maxPayloadBytes',
  'defaultJobOptions',
  'telemetry',
  'maxStalledCount',
  'lockDurationMs',
  'stalledIntervalMs',
  'abandonAfterMs',
] as const

const KEPT: DefaultJobOptions = {
  removeOnComplete: { age: 3_600, count: 1_000 },
  removeOnFail: { age: 7 * 24 * 3_600 },
}

/** @throws InvalidOptionError naming the option that is wrong; never showing what it is, where it may hold a password. */
export function checkJobsOptions(options: BullmqOptions): JobsConfig {
  const read = new OptionReader('bullmq', options as CommonOptions & { transport?: string; connection?: unknown })
  const transport = read.oneOf('transport', 'redis', ['redis', 'postgres'])
  new OptionReader('bullmq', options as RedisTransportOptions & PostgresTransportOptions).onlyKnown(
    transport === 'redis' ? [...COMMON, 'url', 'prefix', 'commandTimeoutMs', 'outbox'] : [...COMMON, 'migrate'],
  )
  for (const name of ['defaultJobOptions', 'telemetry'] as const) read.object(name)
  const { connection } = options as { connection?: unknown }
  if (connection !== undefined && (typeof connection !== 'object' || connection === null)) {
    throw new InvalidOptionError('bullmq.connection', UNSHOWN, 'an object')
  }
  return {
    resource: read.string('resource', undefined),
    maxPayloadBytes: read.integer('maxPayloadBytes', 262_144, { min: 2 }),
    defaultJobOptions: { ...KEPT, ...options.defaultJobOptions },
    telemetry: options.telemetry,
    maxStalledCount: read.integer('maxStalledCount', 10, { min: 0 }),
    lockDurationMs: read.milliseconds('lockDurationMs', 30_000, { min: 100 }),
    stalledIntervalMs: read.milliseconds('stalledIntervalMs', 30_000, { min: 100 }),
    abandonAfterMs: read.milliseconds('abandonAfterMs', 5_000),
  }
}

export interface OutboxConfig {
  /** Quoted, so it can stand in a statement. */
  readonly table: string
  readonly create: boolean
  readonly sweepIntervalMs: number
  readonly sweepAfterMs: number
}

/** @throws InvalidOptionError naming the option that is wrong. */
export function checkOutboxOptions(options: OutboxOptions = {}): OutboxConfig {
  const read = new OptionReader('bullmq.outbox', options).onlyKnown([
    'table',
    'create',
    'sweepIntervalMs',
    'sweepAfterMs',
  ])
  const table = read.string('table', 'reqscope_outbox')
  if (!/^[a-z_][\w$]*(\.[a-z_][\w$]*)?$/i.test(table)) {
    throw new InvalidOptionError('bullmq.outbox.table', table, 'a plain name, perhaps with a schema: ops.outbox')
  }
  return {
    table: table
      .split('.')
      .map((part) => `"${part}"`)
      .join('.'),
    create: read.boolean('create', true),
    sweepIntervalMs: read.milliseconds('sweepIntervalMs', 2_000, { min: 10 }),
    sweepAfterMs: read.milliseconds('sweepAfterMs', 2_000),
  }
}

/** Where Redis is: exactly one of both. */
export interface RedisSource {
  readonly url?: string | undefined
  readonly connection?: RedisOptions | undefined
}

export interface RedisTransportConfig {
  /** Undefined: where the runtime's own Redis is. */
  readonly source: RedisSource | undefined
  readonly prefix: string
  readonly commandTimeoutMs: number
  readonly outbox: OutboxConfig
}

/** @throws InvalidOptionError naming the option that is wrong. */
export function checkRedisTransport(options: RedisTransportOptions): RedisTransportConfig {
  const read = new OptionReader('bullmq', options)
  const url = read.string('url', undefined)
  if (url !== undefined && options.connection !== undefined) {
    throw new InvalidOptionError('bullmq.url', UNSHOWN, 'left out where connection is given')
  }
  if (url !== undefined && !/^rediss?:\/\//.test(url)) {
    throw new InvalidOptionError('bullmq.url', UNSHOWN, 'a URL like redis://user:password@host:6379/0')
  }
  const connection = optionsIn(options.connection)
  if (connection?.keyPrefix) {
    throw new InvalidOptionError('bullmq.connection.keyPrefix', connection.keyPrefix, 'left out: BullMQ has prefix')
  }
  return {
    source: url === undefined && connection === undefined ? undefined : { url, connection },
    prefix: read.string('prefix', 'bull'),
    commandTimeoutMs: read.milliseconds('commandTimeoutMs', 5_000, { min: 1 }),
    outbox: checkOutboxOptions(options.outbox),
  }
}

/** A client is known by its members: ioredis itself is loaded only when the runtime starts. */
function optionsIn(connection: RedisOptions | Redis | undefined): RedisOptions | undefined {
  return connection !== undefined && 'options' in connection && 'duplicate' in connection
    ? (connection as Redis).options
    : (connection as RedisOptions | undefined)
}

export interface PostgresTransportConfig {
  readonly connection: PoolConfig | undefined
  readonly migrate: boolean
}

/** @throws InvalidOptionError naming the option that is wrong. */
export function checkPostgresTransport(options: PostgresTransportOptions): PostgresTransportConfig {
  return { connection: options.connection, migrate: new OptionReader('bullmq', options).boolean('migrate', true) }
}
