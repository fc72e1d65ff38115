import type { JobRuntime } from '../scope/job.ts'
import type { Scope } from '../scope/scope.ts'
import { backgroundTask } from './background-task.ts'
import type { Outbox, OutboxRow } from './outbox.ts'

/** Adds jobs of one queue, in their order; what is there already stays as it is. */
export type AddToQueue = (queue: string, rows: readonly OutboxRow[]) => Promise<unknown>

const BATCH = 200
const TASK_TIMEOUT_MS = 30_000

/** Moves jobs from the outbox to their queues, several at once and one transaction after another. */
export class Relay {
  readonly #runtime: JobRuntime
  readonly #outbox: Outbox
  readonly #resource: string
  readonly #add: AddToQueue
  #waiting: string[] = []
  #moving: Promise<void> | undefined

  constructor(runtime: JobRuntime, outbox: Outbox, resource: string, add: AddToQueue) {
    this.#runtime = runtime
    this.#outbox = outbox
    this.#resource = resource
    this.#add = add
  }

  /** Their transaction has committed. Nobody waits for it: what fails here is left to the sweeper. */
  soon(jobIds: readonly string[]): void {
    this.#waiting.push(...jobIds)
    this.#moving ??= this.#moveWaiting()
  }

  /** Resolves when nothing waits any more. */
  async flushed(): Promise<void> {
    await this.#moving
  }

  /** Moves what was left behind; returns how many jobs that were. */
  async sweep(): Promise<number> {
    let moved = 0
    for (;;) {
      const count = await this.#move('sweep of the outbox', (scope) => this.#outbox.takeOld(scope, BATCH))
      moved += count
      if (count < BATCH) return moved
    }
  }

  async #moveWaiting(): Promise<void> {
    try {
      while (this.#waiting.length > 0) {
        const batch = this.#waiting.splice(0, BATCH)
        await this.#move('relay of the outbox', (scope) => this.#outbox.take(scope, batch))
      }
    } catch (error) {
      const left = this.#waiting.splice(0).length
      this.#runtime.logger.warn(
        { err: error, left },
        'jobs could not be relayed right after their commit; the sweeper will',
      )
    } finally {
      this.#moving = undefined
    }
  }

  #move(name: string, take: (scope: Scope) => Promise<OutboxRow[]>): Promise<number> {
    return backgroundTask(this.#runtime, name, TASK_TIMEOUT_MS, (scope) =>
      scope.transaction({ resource: this.#resource }, async () => {
        const rows = await take(scope)
        // Each queue's in their order. Whatever fails rolls the rows back; ids that were added by then are dropped next time.
        for (const [queue, ofQueue] of byQueue(rows)) await this.#add(queue, ofQueue)
        return rows.length
      }),
    )
  }
}

function byQueue(rows: readonly OutboxRow[]): Map<string, OutboxRow[]> {
  const all = new Map<string, OutboxRow[]>()
  for (const row of rows) {
    const ofQueue = all.get(row.queue)
    if (ofQueue === undefined) all.set(row.queue, [row])
    else ofQueue.push(row)
  }
  return all
}
