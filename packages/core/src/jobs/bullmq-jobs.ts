import type { FlowJob, JobNode, JobsOptions, Queue, QueueEvents } from 'bullmq'
import { ConnectionLostError, InvalidOptionError, isReqscopeError, SharedConnectionError } from '../errors.ts'
import { OptionReader } from '../options.ts'
import { type PostgresAccess, postgresAccessOf } from '../postgres/access.ts'
import { currentContext } from '../scope/current.ts'
import type { Enqueueable, EnqueueOptions, JobRuntime, JobSystem, WorkOptions } from '../scope/job.ts'
import type { ResourceHealth, Resources } from '../scope/resource.ts'
import type { Scope } from '../scope/scope.ts'
import { checkDeduplication, isJobDefinition, type JobDefinition } from './define-job.ts'
import type { JobsConfig } from './options.ts'
import { checkedPayload } from './payload.ts'
import type { JobEntry, Transport } from './transports/transport.ts'
import { BullmqWorkers } from './worker.ts'

/** Called when the runtime is made, so that what is wrong is said then; what it returns, when the runtime starts. */
type PrepareTransport = (runtime: JobRuntime, access: PostgresAccess | undefined) => () => Promise<Transport>

/** The jobs of a runtime, on BullMQ; made by `bullmq(…)`. */
export class BullmqJobs implements JobSystem<BullmqWorkers> {
  readonly #config: JobsConfig
  readonly #prepare: PrepareTransport
  readonly #workers = new Set<BullmqWorkers>()
  #runtime: JobRuntime | undefined
  #load: (() => Promise<Transport>) | undefined
  #transport: Transport | undefined
  #accesses: readonly PostgresAccess[] = []
  #access: PostgresAccess | undefined

  /** @internal Use `bullmq`. */
  constructor(config: JobsConfig, prepare: PrepareTransport) {
    this.#config = config
    this.#prepare = prepare
  }

  attach(runtime: JobRuntime): void {
    if (this.#runtime !== undefined) {
      throw new InvalidOptionError(
        'createScopes.jobs',
        this,
        'a bullmq(…) of its own: this one belongs to another runtime',
      )
    }
    this.#runtime = runtime
    this.#accesses = Object.values(runtime.resources).flatMap((resource) => postgresAccessOf(resource) ?? [])
    this.#access = chosen(this.#config.resource, this.#accesses, runtime.resources)
    this.#load = this.#prepare(runtime, this.#access)
  }

  async start(): Promise<void> {
    this.#transport = await this.#load?.()
    await this.#transport?.start()
  }

  async drain(timeoutMs: number): Promise<void> {
    const timeout = Math.floor(timeoutMs)
    await Promise.all([...this.#workers].map((workers) => workers.close({ timeoutMs: timeout })))
  }

  async stop({ timeoutMs }: { readonly timeoutMs: number }): Promise<void> {
    await this.#transport?.stop(timeoutMs)
  }

  async health(): Promise<ResourceHealth> {
    return this.#transport?.health() ?? { status: 'down', error: 'the runtime is not started' }
  }

  async work(jobs: readonly Enqueueable<never>[], options: WorkOptions): Promise<BullmqWorkers> {
    const runtime = this.#runtime as JobRuntime
    const transport = this.#opened
    if (!Array.isArray(jobs) || jobs.length === 0 || !jobs.every(isJobDefinition)) {
      throw new InvalidOptionError('work.jobs', jobs, 'a list of what defineJob returned')
    }
    const workers = new BullmqWorkers(runtime, transport, this.#config, jobs, options)
    this.#workers.add(workers)
    try {
      await workers.ready()
    } catch (error) {
      this.#workers.delete(workers)
      await workers.close({ timeoutMs: 1_000 })
      throw error
    }
    return workers
  }

  async enqueue(scope: Scope, job: Enqueueable, data: unknown, options?: EnqueueOptions): Promise<string> {
    const { name, queue, opts } = checkedJob(job, options)
    const transport = this.#opened
    const entry: JobEntry = { queue, name, data: checkedPayload(name, data, transport.limits), opts }
    if (this.#isInTransaction(scope)) {
      const [id] = await transport.addInTransaction(scope, [entry])
      return id as string
    }
    try {
      const { id } = await transport.add(entry)
      return id as string
    } catch (error) {
      throw reportedLoss(error)
    }
  }

  async enqueueAll(
    scope: Scope,
    job: Enqueueable,
    data: readonly unknown[],
    options?: EnqueueOptions,
  ): Promise<string[]> {
    const { name, queue, opts } = checkedJob(job, options)
    const transport = this.#opened
    if (!Array.isArray(data)) throw new InvalidOptionError('enqueueAll.data', data, 'a list')
    const entries: JobEntry[] = data.map((each) => ({
      queue,
      name,
      data: checkedPayload(name, each, transport.limits),
      opts,
    }))
    if (entries.length === 0) return []
    if (this.#isInTransaction(scope)) return transport.addInTransaction(scope, entries)
    try {
      const all = await transport.queue(queue).addBulk(entries)
      return all.map(({ id }) => id as string)
    } catch (error) {
      throw reportedLoss(error)
    }
  }

  /** @throws InvalidOptionError in a transaction of another resource than the jobs'. */
  #isInTransaction(scope: Scope): boolean {
    const context = currentContext()
    if (context?.scope !== scope || context.parent === undefined) return false // no link around: nothing is open
    if (this.#access?.inTransaction(scope)) return true
    const other = this.#accesses.find((access) => access !== this.#access && access.inTransaction(scope))
    if (other === undefined) return false
    throw new InvalidOptionError(
      'bullmq.resource',
      this.#access?.name,
      `'${other.name}' for jobs in its transactions; with another one they would not commit together`,
    )
  }

  /** BullMQ's queue of a job, for everything Reqscope adds nothing to: job schedulers, counts, pausing, retries. */
  queueOf(job: Enqueueable<never> | string): Queue {
    return this.#opened.queue(typeof job === 'string' ? job : job.queue)
  }

  /** BullMQ's events of a job's queue, over a connection of their own that is closed with the runtime. */
  queueEventsOf(job: Enqueueable<never> | string): QueueEvents {
    return this.#opened.queueEvents(typeof job === 'string' ? job : job.queue)
  }

  /**
   * Adds a flow: a tree of jobs, in several queues perhaps; BullMQ's own, so `data` is not checked.
   *
   * @throws SharedConnectionError inside a transaction, which it can't be part of.
   */
  addFlow(flow: FlowJob): Promise<JobNode> {
    const scope = currentContext()?.scope
    if (scope !== undefined && this.#accesses.some((access) => access.inTransaction(scope))) {
      throw new SharedConnectionError({
        resource: 'jobs',
        operation: 'A flow inside a transaction',
        instead:
          'it would be there although the transaction rolls back. Add it in scope.afterCommit(fn), or enqueue a job that adds it.',
      })
    }
    return this.#opened.flowProducer().add(flow)
  }

  get #opened(): Transport {
    if (this.#transport !== undefined) return this.#transport
    throw new InvalidOptionError('bullmq', this, 'used after scopes.start(), which the adapters call')
  }
}

function chosen(
  name: string | undefined,
  accesses: readonly PostgresAccess[],
  resources: Resources,
): PostgresAccess | undefined {
  if (name === undefined && accesses.length < 2) return accesses[0]
  const found = accesses.find((access) => access.name === name)
  if (found !== undefined) return found
  const names = accesses.map((access) => `'${access.name}'`).join(', ')
  throw new InvalidOptionError(
    'bullmq.resource',
    name,
    accesses.length === 0
      ? `left out: no resource is Postgres (there are ${Object.keys(resources).join(', ') || 'none'})`
      : `one of ${names}`,
  )
}

const KNOWN = ['delayMs', 'priority', 'deduplication', 'jobId'] as const
// What a definition says of each job is worked out once.
const ofDefinition = new WeakMap<object, JobsOptions>()

function checkedJob(job: Enqueueable, options: EnqueueOptions | undefined) {
  if (!isJobDefinition(job)) throw new InvalidOptionError('enqueue.job', job, 'what defineJob returned')
  return { name: job.name, queue: job.queue, opts: jobOptions(job, options) }
}

function jobOptions(job: JobDefinition<never, never>, options: EnqueueOptions | undefined): JobsOptions {
  let defaults = ofDefinition.get(job)
  if (defaults === undefined) ofDefinition.set(job, (defaults = defaultsOf(job)))
  if (options === undefined) return defaults
  const read = new OptionReader('enqueue', options).onlyKnown(KNOWN)
  const delay = read.milliseconds('delayMs', 0)
  const priority = read.integer('priority', defaults.priority ?? 0, { min: 0, max: 2_097_151 })
  const jobId = read.string('jobId', undefined)
  if (jobId !== undefined && (/^\d+$/.test(jobId) || jobId.includes(':') || jobId.startsWith('ob-'))) {
    throw new InvalidOptionError(
      'enqueue.jobId',
      jobId,
      "a string that is not a number, has no colon and does not begin with 'ob-'",
    )
  }
  checkDeduplication('enqueue', options.deduplication)
  return {
    ...defaults,
    ...(delay > 0 && { delay }),
    ...(priority > 0 && { priority }),
    ...(jobId !== undefined && { jobId }),
    ...(options.deduplication !== undefined && { deduplication: deduplicationOf(options.deduplication) }),
  }
}

function defaultsOf({ attempts, backoff, priority, deduplication }: JobDefinition<never, never>): JobsOptions {
  return {
    ...(attempts !== undefined && { attempts }),
    ...(backoff !== undefined && { backoff: backoff as number }),
    ...(priority !== undefined && { priority }),
    ...(deduplication !== undefined && { deduplication: deduplicationOf(deduplication) }),
  }
}

function deduplicationOf({ id, ttlMs, extend, replace }: NonNullable<EnqueueOptions['deduplication']>) {
  return {
    id,
    ...(ttlMs !== undefined && { ttl: ttlMs }),
    ...(extend !== undefined && { extend }),
    ...(replace !== undefined && { replace }),
  }
}

/** What is said of a store that is away: whether the job is there is not known then. */
function reportedLoss(cause: unknown): unknown {
  const { name, message, code } = cause as { name?: string; message?: string; code?: string }
  const isLost =
    name === 'MaxRetriesPerRequestError' ||
    /^(ECONN|EPIPE|ETIMEDOUT|ENOTFOUND|08|57P0)/.test(code ?? '') ||
    /Command timed out|Connection is closed|Connection terminated|timeout exceeded when trying to connect/.test(
      message ?? '',
    )
  if (isReqscopeError(cause) || !isLost) return cause
  return new ConnectionLostError({
    resource: 'jobs',
    reason: 'lost',
    outcome: 'unknown',
    message: `The queue could not be reached: ${message}. Whether the job was enqueued is unknown; with a jobId of your own it can be enqueued again.`,
    cause,
  })
}
