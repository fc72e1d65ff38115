import { type IntervalHistogram, monitorEventLoopDelay } from 'node:perf_hooks'
import type { LeaseDescription } from './events.ts'
import { OptionReader } from './options.ts'
import { outsideEveryScope } from './scope/current.ts'
import type { ResourceHealth } from './scope/resource.ts'

/** Above what the application counts as degraded. */
export interface HealthThresholds {
  /** How late the event loop was, 99 times in 100, in milliseconds. Default 250. */
  readonly eventLoopDelayMs?: number
  /** How much of a pool is leased, from 0 to 1. Default 0.95. */
  readonly poolUse?: number
  /** How long who asks for a connection would wait, in milliseconds. Default 1,000. */
  readonly poolWaitMs?: number
  /** How long the oldest lease has been held, in milliseconds. Default 60,000. */
  readonly oldestLeaseMs?: number
  /** How many sessions were idle in a transaction. Default 0: one is too many. */
  readonly idleInTransaction?: number
  /** How long the shortest of queries takes, in milliseconds. Default 1,000. */
  readonly queryMs?: number
  /** How old the oldest job is that was committed and is not in its queue yet, in milliseconds. Default 10,000. */
  readonly outboxLagMs?: number
}

/** A value that is above its threshold. */
export interface CrossedThreshold {
  /** `db.poolUse`, or `eventLoopDelayMs`, of the process. */
  readonly name: string
  readonly value: number
  readonly threshold: number
}

/** How the runtime and each of its resources are. */
export interface Health {
  /** `down` when a resource is down or the runtime is closing, `degraded` when one says so of itself or a threshold is crossed. */
  readonly status: 'up' | 'degraded' | 'down'
  readonly state: 'open' | 'closing' | 'closed'
  readonly resources: Readonly<Record<string, ResourceHealth>>
  readonly crossed: readonly CrossedThreshold[]
  /** How late the event loop was since somebody last asked, 99 times in 100, in milliseconds. */
  readonly eventLoopDelayMs: number
  /** The lease that has been held for longest. */
  readonly oldestLease: LeaseDescription | undefined
  /** Where the runtime has jobs: its transport, and the size and age of the outbox. */
  readonly jobs?: ResourceHealth
}

/** What can be asked how it is. */
interface Asked {
  readonly name: string
  readonly resource: { health(): ResourceHealth | Promise<ResourceHealth> }
}

/** @throws InvalidOptionError naming the threshold that is wrong. */
export function checkThresholds(given: HealthThresholds | undefined, prefix: string): Required<HealthThresholds> {
  const options = given ?? {}
  const read = new OptionReader(prefix, options).onlyKnown([
    'eventLoopDelayMs',
    'poolUse',
    'poolWaitMs',
    'oldestLeaseMs',
    'idleInTransaction',
    'queryMs',
    'outboxLagMs',
  ])
  return {
    eventLoopDelayMs: read.milliseconds('eventLoopDelayMs', 250),
    poolUse: read.number('poolUse', 0.95, { min: 0, max: 1 }),
    poolWaitMs: read.milliseconds('poolWaitMs', 1_000),
    oldestLeaseMs: read.milliseconds('oldestLeaseMs', 60_000),
    idleInTransaction: read.integer('idleInTransaction', 0, { min: 0 }),
    queryMs: read.milliseconds('queryMs', 1_000),
    outboxLagMs: read.milliseconds('outboxLagMs', 10_000),
  }
}

// A histogram holds the time between two ticks of its own, so this much of it is no delay.
const RESOLUTION_MS = 20

/** How late the event loop is. It costs a tick every 20 ms, and only while it is started. */
export class EventLoopDelay {
  #histogram: IntervalHistogram | undefined

  start(): void {
    this.#histogram ??= monitorEventLoopDelay({ resolution: RESOLUTION_MS })
    this.#histogram.enable()
  }

  stop(): void {
    this.#histogram?.disable()
  }

  /** Since it was last asked, 99 times in 100, in milliseconds. */
  read(): number {
    const histogram = this.#histogram
    if (histogram === undefined || histogram.count === 0) return 0
    const late = histogram.percentile(99) / 1e6 - RESOLUTION_MS
    histogram.reset()
    return Math.max(0, Math.round(late))
  }
}

export async function healthOf(facts: {
  readonly slots: readonly Asked[]
  /** What is asked as well, and is no resource: the jobs. */
  readonly parts: readonly Asked[]
  readonly state: Health['state']
  readonly timeoutMs: number
  readonly thresholds: Required<HealthThresholds>
  readonly eventLoopDelayMs: number
  readonly oldestLease: LeaseDescription | undefined
}): Promise<Health> {
  const { slots, parts, state, timeoutMs, eventLoopDelayMs, oldestLease } = facts
  const all = await Promise.all(
    [...slots, ...parts].map(async ({ name, resource }) => [name, await askedOf(resource, timeoutMs)] as const),
  )
  const crossed = [...crossedOf(facts, all)]
  const statuses = all.map(([, health]) => health.status)
  const isDegraded = crossed.length > 0 || statuses.includes('degraded')
  const status = state !== 'open' || statuses.includes('down') ? 'down' : isDegraded ? 'degraded' : 'up'
  const resources = Object.fromEntries(all.slice(0, slots.length))
  const others = Object.fromEntries(all.slice(slots.length))
  return { status, state, resources, ...others, crossed, eventLoopDelayMs, oldestLease }
}

function* crossedOf(
  { thresholds, eventLoopDelayMs, oldestLease }: Parameters<typeof healthOf>[0],
  resources: readonly (readonly [string, ResourceHealth])[],
): Generator<CrossedThreshold> {
  const above = (name: string, value: unknown, threshold: number): CrossedThreshold[] =>
    typeof value === 'number' && value > threshold ? [{ name, value, threshold }] : []
  yield* above('eventLoopDelayMs', eventLoopDelayMs, thresholds.eventLoopDelayMs)
  yield* above('oldestLeaseMs', oldestLease?.heldMs, thresholds.oldestLeaseMs)
  for (const [name, health] of resources) {
    const { max, leased, expectedWaitMs } = (health.pool ?? {}) as Readonly<Record<string, number | undefined>>
    if (max !== undefined && leased !== undefined) yield* above(`${name}.poolUse`, leased / max, thresholds.poolUse)
    yield* above(`${name}.poolWaitMs`, expectedWaitMs, thresholds.poolWaitMs)
    for (const fact of ['idleInTransaction', 'queryMs', 'outboxLagMs'] as const) {
      yield* above(`${name}.${fact}`, health[fact], thresholds[fact])
    }
  }
}

async function askedOf(resource: Asked['resource'], timeoutMs: number): Promise<ResourceHealth> {
  let timer: NodeJS.Timeout | undefined
  const silence = new Promise<ResourceHealth>((resolve) => {
    const error = `it did not say how it is within ${timeoutMs} ms`
    timer = outsideEveryScope(() => setTimeout(resolve, timeoutMs, { status: 'down', error }))
  })
  try {
    return await Promise.race([resource.health(), silence])
  } catch (error) {
    return { status: 'down', error: error instanceof Error ? error.message : String(error) }
  } finally {
    clearTimeout(timer)
  }
}
