import type { Random } from '../random.ts'
import type { Outside } from './outside.ts'

export type Fault = BackendKilled | RedisConnectionsKilled

interface Moment {
  /** When it was ordered and when it was done, in milliseconds since the epoch. */
  readonly startedAt: number
  readonly endedAt: number
}

export interface BackendKilled extends Moment {
  readonly target: 'postgres'
  readonly pid: number
  /** What the backend was doing: `active`, `idle`, `idle in transaction`. */
  readonly state: string
}

/** All of them at once, the shared client's too, over which every request goes. */
export interface RedisConnectionsKilled extends Moment {
  readonly target: 'redis'
  readonly connections: number
}

/** Kills the shop's connections to Redis and one of its Postgres backends, as an administrator or a failing server would. */
export class Faults {
  readonly all: Fault[] = []
  readonly killed = new Set<number>()
  readonly #outside: Outside
  readonly #random: Random

  constructor(outside: Outside, random: Random) {
    this.#outside = outside
    this.#random = random
  }

  /** Connections of the jobs to Postgres that were killed: nobody but a job notices. */
  jobConnections = 0

  async inject(): Promise<void> {
    await this.#killRedisConnections()
    this.jobConnections += await this.#outside.killJobConnections()
    const backends = (await this.#outside.backends()).filter(({ pid }) => !this.killed.has(pid))
    if (backends.length === 0) return
    const { pid, state } = this.#random.pick(backends)
    const startedAt = Date.now()
    this.killed.add(pid)
    await this.#outside.terminate(pid)
    this.all.push({ target: 'postgres', pid, state, startedAt, endedAt: Date.now() })
  }

  async #killRedisConnections(): Promise<void> {
    const startedAt = Date.now()
    const connections = await this.#outside.killRedisClients()
    if (connections > 0) this.all.push({ target: 'redis', connections, startedAt, endedAt: Date.now() })
  }
}
