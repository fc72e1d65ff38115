import type { Random } from '../random.ts'
import type { Outside } from './outside.ts'

export interface Fault {
  readonly pid: number
  /** What the backend was doing: `active`, `idle`, `idle in transaction`. */
  readonly state: string
  /** When it was ordered and when it was done, in milliseconds since the epoch. */
  readonly startedAt: number
  readonly endedAt: number
}

/** Kills one of the shop's Postgres backends, as an administrator or a failing server would. */
export class Faults {
  readonly all: Fault[] = []
  readonly killed = new Set<number>()
  readonly #outside: Outside
  readonly #random: Random

  constructor(outside: Outside, random: Random) {
    this.#outside = outside
    this.#random = random
  }

  /** Connections of the jobs that were killed: nobody but a job notices. */
  jobConnections = 0

  async inject(): Promise<void> {
    this.jobConnections += (await this.#outside.killRedisClients()) + (await this.#outside.killJobConnections())
    const backends = (await this.#outside.backends()).filter(({ pid }) => !this.killed.has(pid))
    if (backends.length === 0) return
    const { pid, state } = this.#random.pick(backends)
    const startedAt = Date.now()
    this.killed.add(pid)
    await this.#outside.terminate(pid)
    this.all.push({ pid, state, startedAt, endedAt: Date.now() })
  }
}
