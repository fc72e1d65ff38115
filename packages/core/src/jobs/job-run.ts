import { type Job, UnrecoverableError } from 'bullmq'
import { InvalidOptionError, type ReqscopeError, ScopeAbortedError } from '../errors.ts'
import { COMPLETED } from '../scope/cleanup-stack.ts'
import { outsideEveryScope, runInContext } from '../scope/current.ts'
import type { JobRuntime } from '../scope/job.ts'
import type { RegisteredScope } from '../scope/register.ts'
import type { Scope } from '../scope/scope.ts'
import type { JobDefinition } from './define-job.ts'
import { type AnySchema, issuesIn } from './standard-schema.ts'

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
      // Also when the deadline passes: then nobody but the scope's own timer cancels it.
      onCancel: () => this.#startGrace(),
    })
  }

  /** @throws what the job threw, the reason it was cancelled for, or NotBegun. */
  async run(): Promise<unknown> {
    const scope = this.#scope
    try {
      // It settles with the work, or earlier when that is abandoned; what the work throws after that nobody hears.
      const result = await new Promise((resolve, reject) => {
        this.#abandon = reject
        runInContext(scope, () => this.#work()).then(resolve, reject)
      })
      // What was cancelled is not complete, even if the job swallowed what its handles told it.
      if (scope.cancelReason !== undefined) throw scope.cancelReason
      const ending = scope.end(COMPLETED)
      if (ending !== undefined) await ending
      return result
    } catch (error) {
      await scope.end({ tag: scope.cancelReason === undefined ? 'failed' : 'aborted', error })
      throw error
    } finally {
      clearTimeout(this.#graceTimer)
    }
  }

  async #work(): Promise<unknown> {
    const scope = this.#scope
    const definition = this.#definition
    const job = this.#job
    const preparing = this.#host.beforeRun(scope, job)
    if (preparing !== undefined) {
      await preparing.catch((cause: unknown) => {
        throw new NotBegun('the outbox could not be reached', { cause })
      })
    }
    const { schema } = definition
    const context = {
      data: schema === undefined ? job.data : await this.#read(schema),
      scope: scope as RegisteredScope,
      // Made for those who ask for it: most jobs do not, and it is dear.
      get signal() {
        return scope.signal
      },
      id: String(job.id),
      attempt: job.attemptsMade + 1,
      job,
    }
    const run = definition.run as (given: typeof context) => unknown
    return definition.transaction === true ? scope.transaction(async () => run(context)) : run(context)
  }

  /** @throws UnrecoverableError for what the schema refuses: trying again would not change it. */
  async #read(schema: AnySchema): Promise<unknown> {
    const read = await schema['~standard'].validate(this.#job.data)
    if (read.issues === undefined) return read.value
    throw new UnrecoverableError(
      `The stored data of job ${this.#definition.name} is not what it needs. ${issuesIn(read.issues)}`,
    )
  }

  /** Fires the signal, and leaves the work alone. */
  shutDown(): void {
    this.#scope.shutDown()
  }

  /** Cancels what runs and makes its handles reject; what goes on all the same is abandoned after the grace. */
  cancel(reason: 'signal' | 'job-lock-lost' | 'shutdown', cause?: unknown): void {
    this.#scope.cancel(new ScopeAbortedError({ scope: this.#scope.describe(), reason, cause }))
  }

  /** Cancels it and waits no longer. */
  force(): void {
    this.cancel('shutdown')
    this.#giveUp()
  }

  #startGrace(): void {
    this.#graceTimer ??= outsideEveryScope(() => setTimeout(() => this.#giveUp(), this.#host.abandonAfterMs))
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
