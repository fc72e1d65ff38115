import { randomUUID } from 'node:crypto'
import type { JobsOptions } from 'bullmq'
import type { PostgresAccess } from '../postgres/access.ts'
import type { Scope } from '../scope/scope.ts'
import type { OutboxConfig } from './options.ts'
import type { JobEntry } from './transports/transport.ts'

const PREFIX = 'ob-'

/** A row that was taken out, to be added to its queue before the transaction commits. */
export interface OutboxRow {
  readonly id: string
  readonly queue: string
  readonly name: string
  readonly data: string
  readonly opts: JobsOptions
}

/**
 * The SQL that creates the outbox table, for those who migrate by hand.
 *
 * @param table its name, perhaps with a schema; quoted where that is needed. Default `reqscope_outbox`.
 */
export function outboxMigration(table = 'reqscope_outbox'): string {
  return `create table if not exists ${table} (
  id uuid primary key,
  seq bigint generated always as identity unique,
  queue text not null,
  name text not null,
  data text not null,
  opts text not null,
  created_at timestamptz not null default clock_timestamp()
)`
}

/**
 * The table in which jobs wait for the transaction they were enqueued in: a row is there if, and only if, it committed.
 * Whoever moves a row to its queue deletes it in a transaction and adds the job before that commits, so the row is locked
 * meanwhile. A worker deletes it too, before the job runs: then nobody can add the job again after it has completed.
 */
export class Outbox {
  readonly #access: PostgresAccess
  readonly #config: OutboxConfig

  constructor(access: PostgresAccess, config: OutboxConfig) {
    this.#access = access
    this.#config = config
  }

  /** Whether a job of this id came through an outbox. */
  static isFrom(jobId: string | undefined): jobId is string {
    return jobId?.startsWith(PREFIX) ?? false
  }

  async create(scope: Scope): Promise<void> {
    const { table, create } = this.#config
    if (!create) return
    // Two processes that start at once would collide in the catalogue.
    await scope.transaction({ resource: this.#access.name }, async () => {
      await this.#run(scope, `select pg_advisory_xact_lock(hashtext('reqscope outbox'))`)
      const [found] = await this.#run(scope, 'select to_regclass($1) is not null as there', [table])
      if (found?.there !== true) await this.#run(scope, outboxMigration(table))
    })
  }

  /** Puts jobs into the transaction around; resolves to their ids, in their order. */
  async insert(scope: Scope, entries: readonly JobEntry[]): Promise<string[]> {
    const rows = entries.map(({ queue, name, data, opts }) => ({
      id: randomUUID(),
      queue,
      name,
      data: JSON.stringify(data),
      // The delay counts from here on, not from when the row is relayed.
      opts: JSON.stringify({ ...opts, timestamp: Date.now() }),
    }))
    const [first] = rows
    const columns = `insert into ${this.#config.table} (id, queue, name, data, opts)`
    if (rows.length === 1 && first !== undefined) {
      const values = [first.id, first.queue, first.name, first.data, first.opts]
      await this.#run(scope, `${columns} values ($1, $2, $3, $4, $5)`, values)
    } else {
      await this.#run(
        scope,
        `${columns} select (each->>'id')::uuid, each->>'queue', each->>'name', each->>'data', each->>'opts'
         from jsonb_array_elements($1::jsonb) with ordinality as rows(each, n) order by n`,
        [JSON.stringify(rows)],
      )
    }
    return rows.map(({ id }) => PREFIX + id)
  }

  /** Takes out those of these jobs that nobody else has or had; in the transaction around, which locks them. */
  take(scope: Scope, jobIds: readonly string[]): Promise<OutboxRow[]> {
    const ids = JSON.stringify(jobIds.map((id) => id.slice(PREFIX.length)))
    return this.#take(scope, `id in (select jsonb_array_elements_text($1::jsonb)::uuid)`, [ids])
  }

  /** Takes out the oldest that are left behind, in the transaction around. */
  takeOld(scope: Scope, atMost: number): Promise<OutboxRow[]> {
    const old = `created_at <= clock_timestamp() - $1 * interval '1 millisecond'`
    return this.#take(scope, old, [this.#config.sweepAfterMs], `limit ${atMost}`)
  }

  async #take(scope: Scope, condition: string, parameters: unknown[], limit = ''): Promise<OutboxRow[]> {
    const { table } = this.#config
    const rows = await this.#run(
      scope,
      `with taken as materialized (
         select id from ${table} where ${condition} order by seq ${limit} for update skip locked)
       delete from ${table} using taken where ${table}.id = taken.id
       returning ${table}.id::text as id, ${table}.seq::text as seq, queue, name, data, opts`,
      parameters,
    )
    return rows
      .toSorted((a, b) => (BigInt(a.seq as string) < BigInt(b.seq as string) ? -1 : 1))
      .map((row) => ({
        id: PREFIX + String(row.id),
        queue: String(row.queue),
        name: String(row.name),
        data: String(row.data),
        opts: JSON.parse(String(row.opts)) as JobsOptions,
      }))
  }

  /** Waits while somebody is adding the job, and makes sure that nobody adds it again. */
  async forget(scope: Scope, jobId: string): Promise<void> {
    await this.#run(scope, `delete from ${this.#config.table} where id = $1::uuid`, [jobId.slice(PREFIX.length)])
  }

  async measure(scope: Scope): Promise<{ readonly size: number; readonly oldestMs: number }> {
    const [row] = await this.#run(
      scope,
      `select count(*)::int as size, coalesce(extract(epoch from clock_timestamp() - min(created_at)) * 1000, 0)::float8 as age
       from ${this.#config.table}`,
    )
    return { size: Number(row?.size ?? 0), oldestMs: Math.max(0, Math.round(Number(row?.age ?? 0))) }
  }

  #run(scope: Scope, text: string, parameters: unknown[] = []): Promise<readonly Record<string, unknown>[]> {
    return this.#access.query(scope, text, parameters)
  }
}
