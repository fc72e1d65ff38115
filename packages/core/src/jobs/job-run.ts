import { type Job, UnrecoverableError } from 'bullmq'
import { InvalidOptionError, type ReqscopeError, ScopeAbortedError } from '../errors.ts'
import { COMPLETED } from '../scope/cleanup-stack.ts'
import { outsideEveryScope, runInContext } from '../scope/current.ts'
import type { JobRuntime } from '../scope/job.ts'
import type { RegisteredScope } from '../scope/register.ts'
import type { Scope } from '../scope/scope.ts'
import type { JobDefinition } from './define-job.ts'
import { issuesIn } from './standard-schema.ts'

export interface JobRunHost {
  readonly runtime: JobRuntime
  /** How long a cancelled job may go on before it is abandoned, in milliseconds. */
  readonly abandonAfterMs: number
  /** Called in the job's scope before it runs. */
  beforeRun(scope: Scope, job: Job): Promise<void> | undefined
}

/** Thrown out of a run that has not begun: it goes back to its queue, and no attempt is counted. */
export class NotBegun extends Error {}

/** One attempt of a job, in a scope of its own. */
export class JobRun {
  readonly #host: JobRunHost
  readonly #definition: JobDefinition<never, never>
  readonly #job: Job
  readonly #scope: Scope
  #graceTimer: NodeJS.Timeout | undefined
  #abandon: ((reason: Error) => void) | undefined

  constructor(host: JobRunHost, definition: JobDefinition<never, never>, job: Job) {
    this.#host = host
    this.#definition = definition
    this.#job = job
    const { name, timeoutMs } = definition
    const attempt = job.attemptsMade + 1
    this.#scope = host.runtime.open({
      id: String(job.id),
      kind: 'job',
      name,
      timeoutMs,
      logBindings: { job: name, jobId: job.id, attempt },
    })
  }

  /** @throws what the job threw, the reason it was cancelled for, or NotBegun. */
  async run(): Promise<unknown> {
    const scope = this.#scope
    const abandoned = new Promise<never>((_resolve, reject) => {
      this.#abandon = reject
    })
    scope.signal.addEventListener('abort', this.#startGrace, { once: true })
    const work = runInContext(scope, () => this.#work())
    try {
      const result = await Promise.race([work, abandoned])
      // What was cancelled is not complete, even if the job swallowed what its handles told it.
      if (scope.cancelReason !== undefined) throw scope.cancelReason
      await scope.end(COMPLETED)
      return result
    } catch (error) {
      work.catch(() => {}) // an abandoned one may still fail
      await scope.end({ tag: scope.cancelReason === undefined ? 'failed' : 'aborted', error })
      throw error
    } finally {
      clearTimeout(this.#graceTimer)
      scope.signal.removeEventListener('abort', this.#startGrace)
    }
  }

  async #work(): Promise<unknown> {
    const scope = this.#scope
    const definition = this.#definition
    try {
      await this.#host.beforeRun(scope, this.#job)
    } catch (cause) {
      throw new NotBegun('the outbox could not be reached', { cause })
    }
    const data = await this.#read()
    const context = {
      data,
      scope: scope as RegisteredScope,
      signal: scope.signal,
      id: String(this.#job.id),
      attempt: this.#job.attemptsMade + 1,
      job: this.#job,
    }
    const run = definition.run as (given: typeof context) => unknown
    return definition.transaction === true ? scope.transaction(async () => run(context)) : run(context)
  }

  /** @throws UnrecoverableError for what the schema refuses: trying again would not change it. */
  async #read(): Promise<unknown> {
    const { data } = this.#job
    const { schema, name } = this.#definition
    if (schema === undefined) return data
    const read = await schema['~standard'].validate(data)
    if (read.issues === undefined) return read.value
    throw new UnrecoverableError(`The stored data of job ${name} is not what it needs. ${issuesIn(read.issues)}`)
  }

  /** Fires the signal, and leaves the work alone. */
  shutDown(): void {
    this.#scope.shutDown()
  }

  /** Cancels what runs and makes its handles reject; what goes on all the same is abandoned after the grace. */
  cancel(reason: 'signal' | 'job-lock-lost' | 'shutdown', cause?: unknown): void {
    this.#scope.cancel(new ScopeAbortedError({ scope: this.#scope.describe(), reason, cause }))
    this.#startGrace()
  }

  /** Cancels it and waits no longer. */
  force(): void {
    this.cancel('shutdown')
    this.#giveUp()
  }

  // Also called when the deadline passes: then nobody but the scope's own timer cancels it.
  readonly #startGrace = (): void => {
    if (this.#scope.cancelReason === undefined || this.#graceTimer !== undefined) return
    this.#graceTimer = outsideEveryScope(() => setTimeout(() => this.#giveUp(), this.#host.abandonAfterMs))
  }

  #giveUp(): void {
    const reason: ReqscopeError | undefined = this.#scope.cancelReason
    if (reason === undefined || this.#scope.state !== 'open') return
    this.#scope.log.error(
      { err: reason },
      'a job went on after it was cancelled; it is abandoned, and what it holds is taken back',
    )
    this.#abandon?.(reason)
  }
}

/** @throws InvalidOptionError for two jobs of one name. */
export function jobsByName(jobs: readonly JobDefinition<never, never>[]): Map<string, JobDefinition<never, never>> {
  const all = new Map<string, JobDefinition<never, never>>()
  for (const job of jobs) {
    if (all.has(job.name))
      throw new InvalidOptionError('work.jobs', job.name, 'of different names: two jobs have this one')
    all.set(job.name, job)
  }
  return all
}
