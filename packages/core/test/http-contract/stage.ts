import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { connect } from '@reqscope/services'
import { observer, type TestDatabase, testDatabase } from '@reqscope/services/testing'
import type { Sql } from 'postgres'
import { expect, onTestFinished, vi } from 'vitest'
import { createScopes, type ReqscopeEvents, type Resource } from '../../src/index.ts'
import { type PostgresOptions, postgres } from '../../src/postgres/index.ts'
import { type LogLine, memoryLogger } from '../memory-logger.ts'
import { Client } from './client.ts'
import type { ContractRoute, ContractScopes, ContractSettings, HttpDriver, RunningApp } from './driver.ts'
import { DDL, schema } from './schema.ts'

export type ContractDatabase = TestDatabase & { readonly watch: Sql }

/** The database of a file that runs the contract. */
export async function contractDatabase(): Promise<ContractDatabase> {
  const database = await testDatabase()
  const sql = connect(database.url)
  await sql.unsafe(DDL)
  await sql.end()
  return { ...database, watch: observer(database) }
}

export interface StageOptions extends Partial<Omit<ContractSettings, 'scopes' | 'routes'>> {
  readonly postgres?: Partial<PostgresOptions<typeof schema>>
  readonly settleTimeoutMs?: number
  /** Where the limits are counted. Default: in the process. */
  readonly redis?: Resource<unknown>
}

/** An application that listens, and everything that can be seen of it from outside. */
export class Stage {
  readonly scopes: ContractScopes
  readonly app: RunningApp
  readonly client: Client
  readonly logs: LogLine[]
  readonly watch: Sql
  readonly applicationName: string
  /** How the scopes of requests ended, by name. */
  readonly endings: ReqscopeEvents['reqscope:scope:ended'][] = []
  readonly #faults: unknown[] = []

  private constructor(parts: { scopes: ContractScopes; app: RunningApp; logs: LogLine[]; watch: Sql; name: string }) {
    this.scopes = parts.scopes
    this.app = parts.app
    this.client = new Client(parts.app.port)
    this.logs = parts.logs
    this.watch = parts.watch
    this.applicationName = parts.name
  }

  static async open(
    driver: HttpDriver,
    database: ContractDatabase,
    routes: readonly ContractRoute[],
    options: StageOptions = {},
  ): Promise<Stage> {
    await database.watch`truncate notes, late, slow`
    const { postgres: more, settleTimeoutMs, redis, ...settings } = options
    const name = `contract-${Math.random().toString(36).slice(2, 10)}`
    const { logger, logs } = memoryLogger()
    const scopes = createScopes({
      resources: {
        db: postgres({ url: database.url, schema, applicationName: name, max: 4, ...more }),
        ...(redis !== undefined && { redis }),
      },
      logger,
      settleTimeoutMs: settleTimeoutMs ?? 5_000,
    })
    const app = await driver.start({ scopes, routes, closeTimeoutMs: 2_000, ...settings })
    const stage = new Stage({ scopes, app, logs, watch: database.watch, name })
    stage.#listen()
    return stage
  }

  /** What the table holds, seen from another connection. */
  async notes(): Promise<string[]> {
    const rows = await this.watch<{ text: string }[]>`select text from notes order by id`
    return rows.map((row) => row.text)
  }

  /** The application's backends as the server sees them. */
  async backends(): Promise<{ pid: number; state: string; query: string }[]> {
    return this.watch`select pid, state, query from pg_stat_activity where application_name = ${this.applicationName}`
  }

  /** Kills the backend that `state` fits, once there is one. */
  async killBackend(fits: { state: string; query?: RegExp }): Promise<void> {
    const pid = await vi.waitFor(async () => {
      const found = (await this.backends()).find(
        (each) => each.state === fits.state && (fits.query === undefined || fits.query.test(each.query)),
      )
      if (found === undefined) throw new Error(`no backend is ${fits.state}`)
      return found.pid
    })
    await this.watch`select pg_terminate_backend(${pid})`
  }

  /** Waits until no scope is open, and expects that nothing of any request is left. */
  async expectNothingLeft(): Promise<void> {
    await vi.waitFor(() => expect(this.scopes.snapshot().openScopes.total).toBe(0), { timeout: 5_000, interval: 5 })
    expect(this.scopes.snapshot().leases).toEqual([])
    await vi.waitFor(async () => {
      const busy = (await this.backends()).filter(({ state }) => state !== 'idle')
      expect(busy).toEqual([])
    })
    expect(this.#faults).toEqual([])
  }

  /** The server notices the end of a connection when it comes to it, which may be later than its client. */
  async expectNoBackends(): Promise<void> {
    await vi.waitFor(async () => expect(await this.backends()).toEqual([]))
  }

  /** The warnings that name all of `words`. */
  warnings(...words: string[]): LogLine[] {
    return this.logs.filter(({ level, message }) => level === 'warn' && words.every((word) => message.includes(word)))
  }

  #listen(): void {
    const note = (event: unknown) => {
      const ended = event as ReqscopeEvents['reqscope:scope:ended']
      if (ended.scope.kind === 'request') this.endings.push(ended)
    }
    const fault = (error: unknown) => void this.#faults.push(error)
    subscribe('reqscope:scope:ended', note)
    process.on('uncaughtException', fault)
    process.on('unhandledRejection', fault)
    onTestFinished(async () => {
      await this.app.close()
      await this.expectNoBackends()
      expect(this.#faults).toEqual([])
      unsubscribe('reqscope:scope:ended', note)
      process.off('uncaughtException', fault)
      process.off('unhandledRejection', fault)
    })
  }
}

/** A promise that fulfils when an event of this kind is published. */
export function nextEvent(name: keyof ReqscopeEvents): Promise<void> {
  return new Promise((resolve) => {
    const heard = () => {
      unsubscribe(name, heard)
      resolve()
    }
    subscribe(name, heard)
  })
}

/** A promise that fulfils when the scope's signal fires. */
export function fired(signal: AbortSignal): Promise<unknown> {
  if (signal.aborted) return Promise.resolve(signal.reason)
  return new Promise((resolve) => signal.addEventListener('abort', () => resolve(signal.reason), { once: true }))
}

/** Waits for something that is seen from outside and that nothing announces. */
export async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = performance.now() + 5_000
  while (!(await condition())) {
    if (performance.now() > deadline) throw new Error('it did not come to that within 5 s')
    await new Promise((resolve) => setImmediate(resolve))
  }
}
