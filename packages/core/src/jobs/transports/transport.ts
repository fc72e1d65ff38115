import type { FlowProducer, Job, JobsOptions, Processor, Queue, QueueEvents, Worker, WorkerOptions } from 'bullmq'
import type { ResourceHealth } from '../../scope/resource.ts'
import type { Scope } from '../../scope/scope.ts'
import type { PayloadLimits } from '../payload.ts'

/** A job as it is about to be added. */
export interface JobEntry {
  readonly queue: string
  readonly name: string
  readonly data: unknown
  readonly opts: JobsOptions
}

/** Where BullMQ keeps its jobs, and how a job becomes part of a transaction there. */
export interface Transport {
  readonly name: 'redis' | 'postgres'
  readonly limits: PayloadLimits
  start(): Promise<void>
  stop(timeoutMs: number): Promise<void>
  /** One for each name, made when it is first asked for. */
  queue(name: string): Queue
  /** Adds one job, outside of transactions. */
  add(entry: JobEntry): Promise<Job>
  /** Adds jobs of one queue to the transaction around the caller. Resolves to their ids. */
  addInTransaction(scope: Scope, entries: readonly JobEntry[]): Promise<string[]>
  worker(queue: string, processor: Processor, options: Omit<WorkerOptions, 'connection'>): Worker
  /** Called in the job's scope before it runs: after that the job is never added again. */
  beforeRun(scope: Scope, job: Job): Promise<void> | undefined
  /** Called when a job has settled, before BullMQ tells its store. */
  beforeSettling(): void
  queueEvents(queue: string): QueueEvents
  flowProducer(): FlowProducer
  health(): Promise<ResourceHealth>
}

/** BullMQ keeps for ever that a queue could not be reached when it was made: the next one who asks gets another. */
export function forgetUnlessReady(queues: Map<string, Queue>, name: string, queue: Queue): void {
  queue.waitUntilReady().catch(() => {
    if (queues.get(name) === queue) queues.delete(name)
    queue.close().catch(() => {})
  })
}
