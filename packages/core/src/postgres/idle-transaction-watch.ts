import type { LeaseDescription } from '../events.ts'
import { publish } from '../events.ts'
import { outsideEveryScope } from '../scope/current.ts'
import type { Logger } from '../scope/logger.ts'
import { Connection } from './connection.ts'
import type { PostgresConfig } from './options.ts'

interface IdleBackend {
  readonly pid: number
  readonly age_ms: number
  readonly since: string
  readonly query: string
}

const CONNECT_TIMEOUT_MS = 5_000

/**
 * Asks the server, every now and then, which of our sessions sit idle in a transaction, and says which route holds them. Over
 * a connection of its own: it has to see something when the pool is exhausted by just those.
 *
 * It ends nothing: that is what the server's `idle_in_transaction_session_timeout` is for.
 */
export class IdleTransactionWatch {
  readonly #resource: string
  readonly #config: PostgresConfig
  readonly #leases: () => readonly LeaseDescription[]
  readonly #logger: () => Logger
  #timer: NodeJS.Timeout | undefined
  #checking: Promise<void> | undefined
  #reported = new Set<string>()
  #count = 0

  constructor(
    resource: string,
    config: PostgresConfig,
    leases: () => readonly LeaseDescription[],
    logger: () => Logger,
  ) {
    this.#resource = resource
    this.#config = config
    this.#leases = leases
    this.#logger = logger
  }

  /** How many sessions of ours there were at the last look. */
  get count(): number {
    return this.#count
  }

  start(): void {
    const everyMs = this.#config.idleTransactionCheckMs
    if (everyMs === 0) return
    this.#timer ??= outsideEveryScope(() => setInterval(() => void this.check(), everyMs).unref())
  }

  /** Waits for a look that is under way, so that no connection outlives the resource. */
  async stop(): Promise<void> {
    clearInterval(this.#timer)
    this.#timer = undefined
    await this.#checking
  }

  /** Never rejects: a server that can't be asked is reported elsewhere. */
  check(): Promise<void> {
    this.#checking ??= outsideEveryScope(() => this.#check())
      .catch((error: unknown) => {
        this.#logger().debug({ err: error, resource: this.#resource }, 'idle transactions could not be looked for')
      })
      .finally(() => {
        this.#checking = undefined
      })
    return this.#checking
  }

  async #check(): Promise<void> {
    // Those of other processes have the same name; theirs to report are those that are in their ledger.
    const ours = this.#leases().filter(({ resource, backend }) => resource === this.#resource && backend !== undefined)
    if (ours.length === 0) {
      this.#count = 0
      this.#reported.clear()
      return
    }
    const idle = await this.#ask(ours.map(({ backend }) => backend as number))
    const reported = new Set<string>()
    for (const backend of idle) {
      const lease = ours.find((each) => each.backend === backend.pid)
      if (lease === undefined) continue
      const key = `${backend.pid} ${backend.since}`
      reported.add(key)
      if (!this.#reported.has(key)) this.#report(backend, lease)
    }
    this.#count = reported.size
    this.#reported = reported
  }

  async #ask(pids: readonly number[]): Promise<readonly IdleBackend[]> {
    const connection = await Connection.open(this.#resource, this.#config, CONNECT_TIMEOUT_MS)
    try {
      return await connection.sql.unsafe<IdleBackend[]>(
        `select pid, state_change::text as since, query,
            extract(epoch from clock_timestamp() - state_change)::float8 * 1000 as age_ms
         from pg_stat_activity
         where state like 'idle in transaction%' and pid in (${pids.join(', ')})
           and clock_timestamp() - state_change >= interval '${this.#config.idleTransactionCheckMs} milliseconds'`,
      )
    } finally {
      await connection.close('the look at idle transactions is over').catch(() => {})
    }
  }

  #report({ pid, age_ms, query }: IdleBackend, lease: LeaseDescription): void {
    const idleMs = Math.round(age_ms)
    publish('reqscope:transaction:idle', () => ({ resource: this.#resource, backend: pid, idleMs, lease }))
    this.#logger().warn(
      { resource: this.#resource, backend: pid, idleMs, statement: query, scope: lease.scope, site: lease.site },
      `${lease.scope.kind} ${lease.scope.name} (${lease.scope.id}) has been idle in a transaction of ${this.#resource} for ${idleMs} ms`,
    )
  }
}
