import { execFileSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
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
  readonly #redis: Redis | undefined
  readonly #mailFolder: string

  constructor(servers: { readonly databaseUrl: string; readonly redisUrl: string | undefined }, mailFolder: string) {
    this.#sql = connect(servers.databaseUrl, 'smoke test')
    this.#redis = servers.redisUrl === undefined ? undefined : new Redis(servers.redisUrl)
    this.#mailFolder = mailFolder
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
    if (this.#redis === undefined) return 0
    const list = String(await this.#redis.client('LIST'))
    return list.trim().split('\n').length - 1
  }

  /** Kills all connections to Redis, but for this one; returns how many those were. */
  async killRedisClients(): Promise<number> {
    return this.#redis === undefined
      ? 0
      : Number(await this.#redis.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes'))
  }

  /** Kills the connections over which the jobs are taken and finished, where they are in Postgres. */
  async killJobConnections(): Promise<number> {
    return this.#count(this.#sql`
      select count(pg_terminate_backend(pid))::int as count from pg_stat_activity where application_name = 'reqscope jobs'`)
  }

  async lastOrder(): Promise<number> {
    return this.#count(this.#sql`select coalesce(max(id), 0)::int as count from orders`)
  }

  /** Orders after `since` whose receipt was not mailed, and mailed receipts of orders that are not there. */
  async receipts(since: number): Promise<{ ordersWithoutReceipt: number; receiptsWithoutOrder: number }> {
    const rows = await this.#sql<{ id: number }[]>`select id from orders where id > ${since}`
    const ordered = new Set(rows.map(({ id }) => id))
    const mailed = readdirSync(this.#mailFolder).flatMap((name) => Number(/^receipt-(\d+)\.eml$/.exec(name)?.[1] ?? []))
    const received = new Set(mailed)
    return {
      ordersWithoutReceipt: [...ordered].filter((id) => !received.has(id)).length,
      receiptsWithoutOrder: mailed.filter((id) => !ordered.has(id)).length,
    }
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
    this.#redis?.disconnect()
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
