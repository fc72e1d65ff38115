import { InvalidOptionError } from '../errors.ts'
import type { LeaseDescription } from '../events.ts'
import { OptionReader } from '../options.ts'
import type { ResourceHealth } from '../scope/resource.ts'

/** Where an application says how it is. */
export interface HealthEndpointOptions {
  /** Below it are `/live` and `/ready`. Default `/health`. */
  readonly path?: string
  /** For how long an answer is given again, in milliseconds: a storm of probes asks once. Default 1,000. */
  readonly cacheMs?: number
  /** Whether the readiness shows figures and which route holds the oldest lease, for a network that may see it. Default false. */
  readonly details?: boolean
}

export interface HealthAnswer {
  readonly statusCode: 200 | 503
  readonly body: string
}

/** What a runtime says of itself. */
interface Health {
  readonly status: 'up' | 'degraded' | 'down'
  readonly state: 'open' | 'closing' | 'closed'
  readonly resources: Readonly<Record<string, ResourceHealth>>
  readonly crossed: readonly object[]
  readonly eventLoopDelayMs: number
  readonly oldestLease: LeaseDescription | undefined
}

/** What is needed of a runtime. */
interface Healthy {
  readonly state: Health['state']
  health(): Promise<Health>
}

/** Of every answer. */
export const HEALTH_HEADERS: Readonly<Record<string, string>> = {
  'content-type': 'application/json',
  'cache-control': 'no-store',
}

const ALIVE: HealthAnswer = { statusCode: 200, body: '{"status":"up"}' }

/** The answers of `/health/live` and `/health/ready`. They take no scope, no limit and no connection of a request's. */
export class HealthEndpoints {
  readonly path: string
  readonly #scopes: Healthy
  readonly #cacheMs: number
  readonly #details: boolean
  #ready: Promise<HealthAnswer> | undefined
  #askedAt = Number.NEGATIVE_INFINITY
  #askedIn: Health['state'] = 'open'

  /** @throws InvalidOptionError naming the option that is wrong. */
  constructor(scopes: Healthy, options: HealthEndpointOptions, prefix: string) {
    const read = new OptionReader(prefix, options).onlyKnown(['path', 'cacheMs', 'details'])
    this.path = read.string('path', '/health')
    if (!/^\/.*[^/]$/.test(this.path)) {
      throw new InvalidOptionError(`${prefix}.path`, this.path, 'a path that begins with a slash and ends with none')
    }
    this.#scopes = scopes
    this.#cacheMs = read.milliseconds('cacheMs', 1_000)
    this.#details = read.boolean('details', false)
  }

  /** The answer to a request; undefined where it asks for something else. */
  answer(method: string | undefined, path: string): HealthAnswer | Promise<HealthAnswer> | undefined {
    if ((method !== 'GET' && method !== 'HEAD') || !path.startsWith(this.path)) return undefined
    const asked = path.slice(this.path.length)
    return asked === '/live' ? this.live() : asked === '/ready' ? this.ready() : undefined
  }

  /** The process answers. What it depends on is no reason to restart it. */
  live(): HealthAnswer {
    return ALIVE
  }

  /** Whether it should be sent requests: not while it shuts down, or while something it depends on is down. Never rejects. */
  ready(): Promise<HealthAnswer> {
    const now = performance.now()
    const { state } = this.#scopes
    // A shutdown is told at once.
    if (this.#ready === undefined || now - this.#askedAt >= this.#cacheMs || state !== this.#askedIn) {
      this.#askedAt = now
      this.#askedIn = state
      this.#ready = this.#scopes.health().then((health) => ({
        statusCode: health.status === 'down' ? 503 : 200,
        body: JSON.stringify(this.#shown(health)),
      }))
    }
    return this.#ready
  }

  // No statements and no messages of errors: they name hosts and hold what users sent.
  #shown({ status, state, resources, crossed, eventLoopDelayMs, oldestLease }: Health): object {
    const statuses = Object.fromEntries(Object.entries(resources).map(([name, health]) => [name, health.status]))
    const common = { status, state, resources: statuses, crossed }
    if (!this.#details) return common
    return {
      ...common,
      resources: Object.fromEntries(
        Object.entries(resources).map(([name, { status, pool, queryMs, idleInTransaction, outboxLagMs }]) => [
          name,
          { status, pool, queryMs, idleInTransaction, outboxLagMs },
        ]),
      ),
      eventLoopDelayMs,
      oldestLease: oldestLease && {
        resource: oldestLease.resource,
        scope: oldestLease.scope,
        state: oldestLease.state,
        heldMs: Math.round(oldestLease.heldMs),
      },
    }
  }
}
