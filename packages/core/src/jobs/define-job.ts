import type { Job } from 'bullmq'
import { InvalidOptionError } from '../errors.ts'
import { OptionReader } from '../options.ts'
import type { Enqueueable, EnqueueOptions } from '../scope/job.ts'
import type { Json } from '../scope/json.ts'
import type { RegisteredScope } from '../scope/register.ts'
import { type AnySchema, type InputOf, isSchema, type OutputOf } from './standard-schema.ts'

/** What `run` is given. */
export interface JobRunContext<Data> {
  /** As the schema gives it. */
  readonly data: Data
  /** A scope of this attempt's own: nothing of whoever enqueued the job or started the worker is in it. */
  readonly scope: RegisteredScope
  /** Fires on timeout, shutdown, cancellation, and when the job's lock is lost. */
  readonly signal: AbortSignal
  /** The same in every attempt, so effects can be keyed by it. */
  readonly id: string
  /** From 1. */
  readonly attempt: number
  /** BullMQ's own. */
  readonly job: Job
}

export interface JobSettings {
  /** Unique among the jobs of a worker: `send-receipt`. */
  readonly name: string
  /** BullMQ's queue; without a colon. Default `default`. */
  readonly queue?: string
  /** How often it is run until it succeeds. Default 1. */
  readonly attempts?: number
  /** How long to wait before another attempt: milliseconds, or BullMQ's options. Default: not at all. */
  readonly backoff?: number | { readonly type: string; readonly delay?: number; readonly jitter?: number }
  /** How long one attempt may take, in milliseconds; then it fails with `DeadlineExceededError`. Default: for ever. */
  readonly timeoutMs?: number
  /** How many jobs of its queue run at once in one process. Jobs that share a queue must agree. Default: the worker's. */
  readonly concurrency?: number
  /**
   * How many jobs of its queue are begun in `windowMs` milliseconds, by all processes together: BullMQ's own limiter, which
   * leaves the others in the queue. All jobs of a queue must have the same. Default: as many as can be.
   */
  readonly rateLimit?: { readonly limit: number; readonly windowMs: number }
  /** 1 is the highest and 2,097,151 the lowest; without one it runs before all that have one. */
  readonly priority?: number
  /** For every enqueue that brings none of its own. */
  readonly deduplication?: EnqueueOptions['deduplication']
  /** Runs each attempt in a transaction that commits when `run` has resolved. Default false. */
  readonly transaction?: boolean
}

/** A job: what it is called, what it needs and what it does. */
export interface JobDefinition<Input = never, Data = unknown> extends JobSettings, Enqueueable<Input> {
  readonly queue: string
  readonly schema: AnySchema | undefined
  readonly run: (context: JobRunContext<Data>) => unknown
}

interface WithSchema<Schema extends AnySchema> extends JobSettings {
  /** Any Standard Schema. What is enqueued has its input type; `run` is given its output, so a coercion happens when the job is read. */
  readonly data: Schema & CheckedSchema<Schema>
  run(context: JobRunContext<OutputOf<Schema>>): unknown
}

// The message stands at the property of the input that is in the way.
type CheckedSchema<Schema extends AnySchema> =
  InputOf<Schema> extends Json<InputOf<Schema>>
    ? unknown
    : { readonly '~standard': { readonly types: { readonly input: Json<InputOf<Schema>> } } }

interface WithoutSchema<Data> extends JobSettings {
  run(context: JobRunContext<Data>): unknown
}

const KNOWN = [
  'name',
  'queue',
  'data',
  'attempts',
  'backoff',
  'timeoutMs',
  'concurrency',
  'rateLimit',
  'priority',
  'deduplication',
  'transaction',
  'run',
] as const

/**
 * Defines a job: data plus a function that gets a scope of its own. Nothing is registered anywhere; give it to
 * `scopes.work` to run it and to `scope.enqueue` to have it run.
 *
 * With a bare type instead of a schema, what is read back is not checked: `defineJob<{ orderId: string }>()({ … })`.
 *
 * @throws InvalidOptionError naming the option that is wrong.
 */
export function defineJob<Schema extends AnySchema>(
  definition: WithSchema<Schema>,
): JobDefinition<InputOf<Schema>, OutputOf<Schema>>
export function defineJob<Data extends { [Key in keyof Data]: Json<Data[Key]> }>(): (
  definition: WithoutSchema<Data>,
) => JobDefinition<Data, Data>
export function defineJob(definition?: WithSchema<AnySchema>): unknown {
  if (definition !== undefined) return checkedJob(definition, true)
  return (bare: WithoutSchema<unknown>) => checkedJob(bare as WithSchema<AnySchema>, false)
}

function checkedJob(definition: WithSchema<AnySchema>, hasSchema: boolean): JobDefinition<never, never> {
  const read = new OptionReader('defineJob', definition).onlyKnown(KNOWN)
  const name = read.string('name', undefined)
  if (name === undefined) throw new InvalidOptionError('defineJob.name', name, 'a string that is not empty')
  const queue = read.string('queue', 'default')
  if (queue.includes(':')) throw new InvalidOptionError('defineJob.queue', queue, 'a name without a colon')
  if (hasSchema ? !isSchema(definition.data) : definition.data !== undefined) {
    throw new InvalidOptionError(
      'defineJob.data',
      definition.data,
      hasSchema
        ? 'a Standard Schema (zod, valibot, arktype, …); for a bare type: defineJob<Type>()({ … })'
        : 'left out: the job was given a bare type',
    )
  }
  if (typeof definition.run !== 'function') throw new InvalidOptionError('defineJob.run', definition.run, 'a function')
  read.integer('attempts', 1, { min: 1 })
  read.milliseconds('timeoutMs', 0, { min: 1 })
  read.integer('concurrency', 1, { min: 1 })
  checkRateLimit(definition.rateLimit)
  read.integer('priority', 0, { min: 1, max: 2_097_151 })
  read.boolean('transaction', false)
  const { backoff } = definition
  if (typeof backoff === 'number') read.milliseconds('backoff', 0)
  else read.object('backoff')
  checkDeduplication('defineJob', definition.deduplication)
  const { data: schema, ...settings } = definition
  return Object.freeze({ ...settings, queue, schema }) as JobDefinition<never, never>
}

function checkRateLimit(rateLimit: JobSettings['rateLimit']): void {
  if (rateLimit === undefined) return
  const read = new OptionReader('defineJob.rateLimit', rateLimit).onlyKnown(['limit', 'windowMs'])
  for (const name of ['limit', 'windowMs'] as const) {
    if (rateLimit[name] === undefined) throw new InvalidOptionError(`defineJob.rateLimit.${name}`, undefined, 'given')
  }
  read.integer('limit', 1, { min: 1 })
  read.milliseconds('windowMs', 1, { min: 1 })
}

/** @throws InvalidOptionError naming the option that is wrong. */
export function checkDeduplication(prefix: string, deduplication: EnqueueOptions['deduplication']): void {
  if (deduplication === undefined) return
  const read = new OptionReader(`${prefix}.deduplication`, deduplication).onlyKnown([
    'id',
    'ttlMs',
    'extend',
    'replace',
  ])
  if (read.string('id', undefined) === undefined) {
    throw new InvalidOptionError(`${prefix}.deduplication.id`, undefined, 'a string that is not empty')
  }
  read.milliseconds('ttlMs', 0, { min: 1 })
  read.boolean('extend', false)
  read.boolean('replace', false)
}

export function isJobDefinition(value: unknown): value is JobDefinition<never, never> {
  const { name, queue, run } = (value ?? {}) as Partial<JobDefinition<never, never>>
  return typeof name === 'string' && typeof queue === 'string' && typeof run === 'function'
}
