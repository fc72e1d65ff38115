import type { Logger } from './logger.ts'
import type { ResourceHealth, Resources } from './resource.ts'
import type { Scope, ScopeInit } from './scope.ts'

declare const payload: unique symbol

/** What a scope needs to know of a job to enqueue it; made by `defineJob`. */
export interface Enqueueable<Input = never> {
  readonly name: string
  readonly queue: string
  /** Only for the compiler: what may be enqueued. */
  readonly [payload]?: (input: Input) => void
}

export interface EnqueueOptions {
  /** How long it waits before it may run, in milliseconds from now. */
  readonly delayMs?: number
  /** 1 is the highest and 2,097,151 the lowest; without one it runs before all that have one. */
  readonly priority?: number
  /**
   * While a job with this id is there, no other is added: BullMQ's deduplication. The id that `enqueue` returns may then
   * be of the job that is there, or of none, where the transaction decides later.
   */
  readonly deduplication?: {
    readonly id: string
    readonly ttlMs?: number
    readonly extend?: boolean
    readonly replace?: boolean
  }
  /** The job's own id, for effects that happen once: while a job of this id is there, it is not added again. */
  readonly jobId?: string
}

export interface WorkOptions {
  /** How many jobs of one queue run at once in this process, where their definitions do not say. Default 10. */
  readonly concurrency?: number
}

/** The workers of one call of `scopes.work`. */
export interface JobWorkers {
  /**
   * Takes no more jobs, lets those that run finish, signals them after half of the time, and gives back what is left to
   * the queue, where another worker takes it.
   *
   * @param options.timeoutMs how long all of it may take, in milliseconds. Default 10,000.
   */
  close(options?: { readonly timeoutMs?: number }): Promise<void>
}

/** What the runtime lends to its jobs. */
export interface JobRuntime {
  readonly resources: Resources
  readonly logger: Logger
  /** Opens a scope that its opener ends, also while the runtime is closing: what was begun is finished. */
  open(init: ScopeInit): Scope
}

/** What `createScopes({ jobs })` takes; `bullmq(…)` makes it. */
export interface JobSystem<Workers extends JobWorkers = JobWorkers> {
  /** Called once, when the runtime is created. */
  attach(runtime: JobRuntime): void
  /** Opens its connections; the resources are open already. */
  start(): Promise<void>
  /** Stops all workers, within that many milliseconds. */
  drain(timeoutMs: number): Promise<void>
  /** Closes the rest; no scope is open any more, the resources still are. */
  stop(context: { readonly timeoutMs: number }): Promise<void>
  health(): ResourceHealth | Promise<ResourceHealth>
  /** Resolves to the job's id. */
  enqueue(scope: Scope, job: Enqueueable, data: unknown, options: EnqueueOptions | undefined): Promise<string>
  /** Resolves to the ids of the jobs, in their order. */
  enqueueAll(
    scope: Scope,
    job: Enqueueable,
    data: readonly unknown[],
    options: EnqueueOptions | undefined,
  ): Promise<string[]>
  work(jobs: readonly Enqueueable<never>[], options: WorkOptions): Promise<Workers>
}
