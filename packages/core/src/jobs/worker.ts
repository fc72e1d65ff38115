import { DelayedError, type Job, type RateLimiterOptions, UnrecoverableError, WaitingError, type Worker } from 'bullmq'
import { InvalidOptionError, OverloadedError } from '../errors.ts'
import { OptionReader } from '../options.ts'
import { outsideEveryScope } from '../scope/current.ts'
import type { JobRuntime, JobWorkers, WorkOptions } from '../scope/job.ts'
import type { JobDefinition } from './define-job.ts'
import { JobRun, type JobRunHost, jobsByName, NotBegun } from './job-run.ts'
import type { JobsConfig } from './options.ts'
import { checkedPayload } from './payload.ts'
import type { Transport } from './transports/transport.ts'

const NOT_BEGUN_DELAY_MS = 1_000
const CLOSE_TIMEOUT_MS = 10_000

/** The workers of one call of `scopes.work`: one BullMQ worker for each queue. */
export class BullmqWorkers implements JobWorkers {
  /** BullMQ's own, by the name of the queue: for events, `pause`, `rateLimit`. */
  readonly byQueue: ReadonlyMap<string, Worker>
  readonly #runtime: JobRuntime
  readonly #transport: Transport
  readonly #config: JobsConfig
  readonly #running = new Map<string, JobRun>()
  readonly #host: JobRunHost
  #closing: Promise<void> | undefined
  /** Whether jobs have been told to come to an end: what fails after that is no fault of theirs. */
  #isForced = false

  constructor(
    runtime: JobRuntime,
    transport: Transport,
    config: JobsConfig,
    jobs: readonly JobDefinition<never, never>[],
    options: WorkOptions,
  ) {
    this.#runtime = runtime
    this.#transport = transport
    this.#config = config
    this.#host = {
      runtime,
      abandonAfterMs: config.abandonAfterMs,
      beforeRun: (scope, job) => transport.beforeRun(scope, job),
    }
    const read = new OptionReader('work', options).onlyKnown(['concurrency'])
    const concurrency = read.integer('concurrency', 10, { min: 1 })
    jobsByName(jobs)
    const queues = groupByQueue(jobs)
    // All are checked before the first is started.
    const settings = [...queues].map(([queue, ofQueue]) => ({
      queue,
      jobs: ofQueue,
      concurrency: concurrencyOf(queue, ofQueue) ?? concurrency,
      limiter: limiterOf(queue, ofQueue),
    }))
    this.byQueue = new Map(settings.map((each) => [each.queue, this.#start(each)]))
  }

  /** Resolves when all of them are connected. */
  async ready(): Promise<void> {
    await Promise.all([...this.byQueue.values()].map((worker) => worker.waitUntilReady()))
  }

  #start({ queue, jobs, concurrency, limiter }: QueueSettings): Worker {
    const known = jobsByName(jobs)
    const { telemetry, lockDurationMs, stalledIntervalMs, maxStalledCount } = this.#config
    // Two parameters: for a processor with three BullMQ makes a signal for each job, which every scope has already.
    const processor = (job: Job, token: string | undefined) => this.#process(queue, known, job, token)
    const worker = this.#transport.worker(queue, processor, {
      concurrency,
      maxStalledCount,
      lockDuration: lockDurationMs,
      stalledInterval: stalledIntervalMs,
      ...(limiter !== undefined && { limiter }),
      ...(telemetry !== undefined && { telemetry }),
    })
    worker.cancelJob = (id, reason) => this.#cancelRun(keyOf(queue, id), reason)
    worker.cancelAllJobs = (reason) => {
      for (const key of this.#running.keys()) if (key.startsWith(`${queue}:`)) this.#cancelRun(key, reason)
    }
    worker.on('lockRenewalFailed', (ids: string[]) => {
      for (const id of ids) this.#running.get(keyOf(queue, id))?.cancel('job-lock-lost')
    })
    worker.on('error', (error) => {
      if (this.#closing === undefined) this.#runtime.logger.warn({ err: error, queue }, 'a worker reported an error')
    })
    worker.on('stalled', (jobId) => {
      this.#runtime.logger.warn({ queue, jobId }, 'a job was taken over: its worker stopped renewing the lock')
    })
    return worker
  }

  async #process(
    queue: string,
    known: ReadonlyMap<string, JobDefinition<never, never>>,
    job: Job,
    token: string | undefined,
  ): Promise<unknown> {
    if (this.#closing !== undefined) return handBack(job, token)
    const definition = known.get(job.name)
    if (definition === undefined) {
      const names = [...known.keys()].join(', ')
      throw new Error(
        `No job of this worker is called ${job.name}: on queue ${queue} it knows ${names}. Give the job to scopes.work, or to a queue of its own.`,
      )
    }
    const key = keyOf(queue, String(job.id))
    let run: JobRun | undefined
    try {
      run = new JobRun(this.#host, definition, job)
      this.#running.set(key, run)
      const result = await run.run()
      return result === undefined ? undefined : this.#storable(job, result)
    } catch (error) {
      if (this.#isForced || error instanceof OverloadedError) return await handBack(job, token)
      if (error instanceof NotBegun) return await postpone(job, token, error, this.#runtime)
      this.#report(queue, definition, job, error)
      throw error instanceof Error ? error : new Error(String(error))
    } finally {
      if (run !== undefined && this.#running.get(key) === run) this.#running.delete(key)
      this.#transport.beforeSettling() // what BullMQ says of it now goes out with what it says of others
    }
  }

  /** BullMQ would store what JSON makes of a result; of a client that would be its password. */
  #storable(job: Job, result: unknown): unknown {
    try {
      return checkedPayload(job.name, result, { maxBytes: this.#config.maxPayloadBytes, asJsonb: true })
    } catch (error) {
      this.#runtime.logger.warn(
        { err: error, job: job.name, jobId: job.id },
        'what the job returned is not JSON, so it is not stored; let run return nothing, or plain JSON',
      )
      return undefined
    }
  }

  #report(queue: string, { name }: JobDefinition<never, never>, job: Job, error: unknown): void {
    if (isNoFailure(error)) return
    const attempt = job.attemptsMade + 1
    const isLast = attempt >= (job.opts.attempts ?? 1) || (error as Error | null)?.name === UnrecoverableError.name
    const facts = { err: error, job: name, jobId: job.id, queue, attempt }
    if (isLast) this.#runtime.logger.error(facts, 'a job failed')
    else this.#runtime.logger.warn(facts, 'an attempt of a job failed')
  }

  /**
   * Cancels a job that runs here: its signal fires, what it has under way is cancelled and its handles reject. It fails,
   * and may be tried again.
   *
   * @returns false where no job of this id runs here.
   */
  cancel(jobId: string, reason?: string): boolean {
    let found = false
    for (const queue of this.byQueue.keys()) found = this.#cancelRun(keyOf(queue, jobId), reason) || found
    return found
  }

  #cancelRun(key: string, reason: string | undefined): boolean {
    const run = this.#running.get(key)
    run?.cancel('signal', reason)
    return run !== undefined
  }

  close(options: { readonly timeoutMs?: number } = {}): Promise<void> {
    const read = new OptionReader('close', options).onlyKnown(['timeoutMs'])
    const timeoutMs = read.milliseconds('timeoutMs', CLOSE_TIMEOUT_MS)
    this.#closing ??= outsideEveryScope(() => this.#close(timeoutMs))
    return this.#closing
  }

  async #close(timeoutMs: number): Promise<void> {
    // A turn later, so that #closing is set by then.
    await Promise.resolve()
    const workers = [...this.byQueue.values()]
    // They take nothing more, and close once their last job has settled: which each does by then, or is abandoned.
    const closed = Promise.allSettled(workers.map((worker) => worker.close()))
    if (await within(closed, timeoutMs * 0.5)) return
    this.#isForced = true
    for (const run of this.#running.values()) run.shutDown()
    if (await within(closed, timeoutMs * 0.3)) return
    for (const run of this.#running.values()) run.force()
    if (await within(closed, timeoutMs * 0.2)) return
    this.#runtime.logger.warn(
      { jobs: [...this.#running.keys()] },
      'workers could not be closed in good order; what they ran is taken over when its locks have expired',
    )
    for (const worker of workers) void worker.disconnect().catch(() => {})
  }
}

interface QueueSettings {
  readonly queue: string
  readonly jobs: readonly JobDefinition<never, never>[]
  readonly concurrency: number
  readonly limiter: RateLimiterOptions | undefined
}

/** What BullMQ has a job throw that has moved itself. */
function isNoFailure(error: unknown): boolean {
  const { name, message } = (error ?? {}) as Partial<Error>
  return (
    ['DelayedError', 'WaitingError', 'WaitingChildrenError'].includes(name ?? '') ||
    message === 'bullmq:rateLimitExceeded'
  )
}

function keyOf(queue: string, jobId: string): string {
  return `${queue}:${jobId}`
}

function groupByQueue(jobs: readonly JobDefinition<never, never>[]): Map<string, JobDefinition<never, never>[]> {
  const all = new Map<string, JobDefinition<never, never>[]>()
  for (const job of jobs) all.set(job.queue, [...(all.get(job.queue) ?? []), job])
  return all
}

function concurrencyOf(queue: string, jobs: readonly JobDefinition<never, never>[]): number | undefined {
  const [first, ...others] = new Set(jobs.flatMap(({ concurrency }) => concurrency ?? []))
  if (others.length === 0) return first
  throw new InvalidOptionError(
    'defineJob.concurrency',
    others[0],
    `the same for all jobs of queue ${queue}, which is ${first} elsewhere; or give the job a queue of its own`,
  )
}

/** @throws InvalidOptionError where some jobs of a queue have another one: it would hold for them as well. */
function limiterOf(queue: string, jobs: readonly JobDefinition<never, never>[]): RateLimiterOptions | undefined {
  const [first, ...others] = jobs.map(({ rateLimit }) => rateLimit)
  const isDifferent = others.some((each) => each?.limit !== first?.limit || each?.windowMs !== first?.windowMs)
  if (isDifferent) {
    throw new InvalidOptionError(
      'defineJob.rateLimit',
      first,
      `the same for all jobs of queue ${queue}; or give the job a queue of its own`,
    )
  }
  return first && { max: first.limit, duration: first.windowMs }
}

/** Puts a job that was not to run back at once; no attempt is counted. */
async function handBack(job: Job, token: string | undefined): Promise<never> {
  // Should it fail, the lock runs out and another worker takes the job over.
  await job.moveToWait(token).catch(() => {})
  throw new WaitingError()
}

/** The same, a little later: what it needs is not there. */
async function postpone(job: Job, token: string | undefined, error: NotBegun, runtime: JobRuntime): Promise<never> {
  runtime.logger.warn(
    { err: error.cause, job: job.name, jobId: job.id },
    'a job was postponed: its outbox could not be reached',
  )
  await job.moveToDelayed(Date.now() + NOT_BEGUN_DELAY_MS, token).catch(() => {})
  throw new DelayedError()
}

async function within(work: Promise<unknown>, timeoutMs: number): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<false>((resolve) => {
    timer = setTimeout(resolve, timeoutMs, false)
  })
  try {
    return await Promise.race([work.then(() => true as const), late])
  } finally {
    clearTimeout(timer)
  }
}
