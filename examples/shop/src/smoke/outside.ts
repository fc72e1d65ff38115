import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { connect } from '@reqscope/services'
import { Redis } from 'ioredis'
import type { Sql } from 'postgres'
import { APPLICATION_NAME } from '../scopes.ts'

export interface Backend {
  readonly pid: number
  readonly state: string
}

/** The shop as others see it: Postgres, Redis and the system. It asks none of the shop's own code. */
export class Outside {
  readonly #sql: Sql
  readonly #redis: Redis

  constructor(servers: { readonly databaseUrl: string; readonly redisUrl: string }) {
    this.#sql = connect(servers.databaseUrl, 'smoke test')
    this.#redis = new Redis(servers.redisUrl)
  }

  /** The Postgres backends of the shop's connections. */
  async backends(): Promise<Backend[]> {
    return this.#sql<Backend[]>`
      select pid, coalesce(state, 'starting') as state from pg_stat_activity
       where application_name = ${APPLICATION_NAME} order by pid`
  }

  async terminate(pid: number): Promise<void> {
    await this.#sql`select pg_terminate_backend(${pid})`
  }

  /** The connections to Redis, but for this one. */
  async redisClients(): Promise<number> {
    const list = String(await this.#redis.client('LIST'))
    return list.trim().split('\n').length - 1
  }

  async ordersWithoutLines(): Promise<number> {
    return this.#count(this.#sql`
      select count(*)::int from orders
       where not exists (select from order_lines where order_lines.order_id = orders.id)`)
  }

  /** Products whose stock is not what was received, less what was ordered. */
  async stockMismatch(): Promise<number> {
    return this.#count(this.#sql`
      select count(*)::int from stock
       where quantity <> received - (select coalesce(sum(order_lines.quantity), 0) from order_lines
                                      where order_lines.product_id = stock.product_id)`)
  }

  async missingOrders(acknowledged: readonly number[]): Promise<number> {
    return this.#count(this.#sql`
      select count(*)::int from jsonb_array_elements(${this.#sql.json(acknowledged)}) as acknowledged(id)
       where not exists (select from orders where orders.id = acknowledged.id::int)`)
  }

  async rows(table: 'products' | 'customers' | 'order_lines'): Promise<number> {
    return this.#count(this.#sql`select count(*)::int from ${this.#sql(table)}`)
  }

  async close(): Promise<void> {
    this.#redis.disconnect()
    await this.#sql.end({ timeout: 5 })
  }

  async #count(query: PromiseLike<readonly { count?: number }[]>): Promise<number> {
    const [row] = await query
    return row?.count ?? Number.NaN
  }
}

/** How much memory of a process is in RAM; NaN where there is no such process. */
export function residentMiB(pid: number): number {
  try {
    if (process.platform !== 'linux') {
      return Number(execFileSync('ps', ['-o', 'rss=', '-p', String(pid)], { encoding: 'utf8' })) / 1_024
    }
    return Number(/^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) / 1_024
  } catch {
    return Number.NaN
  }
}
