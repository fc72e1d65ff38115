import { EventEmitter } from 'node:events'
import {
  createPostgresBackend,
  FlowProducer,
  type Job,
  type PgPool,
  type PgPoolClient,
  type Processor,
  Queue,
  QueueEvents,
  runMigrations,
  Worker,
  type WorkerOptions,
} from 'bullmq'
import pg, { type Pool, type PoolConfig } from 'pg'
import { ConnectionLostError, InvalidOptionError } from '../../errors.ts'
import type { PostgresAccess, PostgresTarget } from '../../postgres/access.ts'
import { outsideEveryScope, requireCurrentScope } from '../../scope/current.ts'
import type { ResourceHealth } from '../../scope/resource.ts'
import type { Scope } from '../../scope/scope.ts'
import type { JobsConfig } from '../options.ts'
import type { PayloadLimits } from '../payload.ts'
import { LateSocket } from './late-socket.ts'
import { forgetUnlessReady, type JobEntry, type Transport } from './transport.ts'

/** Where BullMQ keeps its tables. With a pool that is given to it, it knows no other. */
const SCHEMA = 'bullmq'
/** Statements at once, beside the one connection that each worker listens on. */
const POOL_MAX = 4
const START_TIMEOUT_MS = 10_000

/**
 * BullMQ's Postgres backend. Outside of transactions it has a pool of its own; a job that is enqueued in a transaction is
 * inserted on the transaction's connection, so it is part of it.
 */
export class PostgresTransport implements Transport {
  readonly name = 'postgres'
  readonly limits: PayloadLimits
  readonly #access: PostgresAccess | undefined
  readonly #jobs: JobsConfig
  readonly #config: PoolConfig
  readonly #place: string
  readonly #migrate: boolean
  readonly #queues = new Map<string, Queue>()
  readonly #queuesInTransaction = new Map<string, Queue>()
  readonly #closeables: { close(): Promise<void> }[] = []
  readonly #pools = new Set<Pool>()
  #pool: Pool | undefined
  #flows: FlowProducer | undefined

  constructor(
    access: PostgresAccess | undefined,
    jobs: JobsConfig,
    place: PostgresTarget | PoolConfig,
    migrate: boolean,
  ) {
    this.#access = access
    this.#jobs = jobs
    this.limits = { maxBytes: jobs.maxPayloadBytes, asJsonb: true }
    this.#migrate = migrate
    this.#config = 'openSocket' in place ? configOf(place) : place
    this.#place = placeIn(place)
  }

  async start(): Promise<void> {
    const pool = this.#openPool(POOL_MAX)
    this.#pool = pool
    let client: pg.PoolClient
    try {
      client = await pool.connect()
    } catch (cause) {
      const why = cause instanceof Error ? cause.message : String(cause)
      throw new ConnectionLostError({
        resource: 'jobs',
        reason: 'unreachable',
        message: `Postgres at ${this.#place} (jobs) can't be reached: ${why}.`,
        cause,
      })
    }
    try {
      if (this.#migrate) await runMigrations(client as unknown as PgPoolClient, SCHEMA)
    } finally {
      client.release()
    }
  }

  #openPool(max: number): Pool {
    return outsideEveryScope(() => {
      const { options } = this.#config
      const pool = new pg.Pool({
        connectionTimeoutMillis: START_TIMEOUT_MS,
        keepAlive: true,
        application_name: 'reqscope jobs',
        ...this.#config,
        options: `${options === undefined ? '' : `${options} `}-c search_path="${SCHEMA}"`,
        max,
      })
      pool.on('error', () => {}) // an idle connection was lost; the next statement opens another
      this.#pools.add(pool)
      return pool
    })
  }

  async stop(): Promise<void> {
    const all = [...this.#queues.values(), ...this.#queuesInTransaction.values(), ...this.#closeables]
    await Promise.allSettled(all.map((each) => each.close()))
    await Promise.allSettled([...this.#pools].map((pool) => pool.end()))
    for (const each of [this.#queues, this.#queuesInTransaction, this.#pools]) each.clear()
    this.#pool = undefined
  }

  queue(name: string): Queue {
    return this.#memoized(this.#queues, name, () => this.#newQueue(name, this.#opened as unknown as PgPool, false))
  }

  #memoized(queues: Map<string, Queue>, name: string, make: () => Queue): Queue {
    let queue = queues.get(name)
    if (queue === undefined) {
      queue = make()
      queues.set(name, queue)
      forgetUnlessReady(queues, name, queue)
    }
    return queue
  }

  #newQueue(name: string, connection: PgPool, skipMetasUpdate: boolean): Queue {
    const { telemetry, defaultJobOptions } = this.#jobs
    const options = {
      connection,
      defaultJobOptions,
      skipMetasUpdate,
      ...(telemetry !== undefined && { telemetry }),
    }
    const queue = outsideEveryScope(() => new Queue(name, options as never, createPostgresBackend as never))
    queue.on('error', () => {}) // every call rejects by itself
    return queue
  }

  add({ queue, name, data, opts }: JobEntry): Promise<Job> {
    return this.queue(queue).add(name, data, opts)
  }

  async addInTransaction(_scope: Scope, entries: readonly JobEntry[]): Promise<string[]> {
    const [first] = entries
    const access = this.#access
    if (first === undefined || access === undefined) return []
    // Its metadata must not be written in somebody's transaction, so that is left to the queue outside.
    this.queue(first.queue)
    const queue = this.#memoized(this.#queuesInTransaction, first.queue, () =>
      this.#newQueue(first.queue, new TransactionPool(access, this.#opened) as unknown as PgPool, true),
    )
    const jobs =
      entries.length === 1
        ? [await queue.add(first.name, first.data, first.opts)]
        : await queue.addBulk(entries.map(({ name, data, opts }) => ({ name, data, opts })))
    return jobs.map(({ id }) => String(id))
  }

  worker(queue: string, processor: Processor, options: Omit<WorkerOptions, 'connection'>): Worker {
    // One connection listens; the others take, renew and finish jobs.
    const connection = this.#openPool(1 + POOL_MAX)
    const worker = outsideEveryScope(
      () => new Worker(queue, processor, { ...options, connection } as never, createPostgresBackend as never),
    )
    worker.once('closed', () => {
      this.#pools.delete(connection)
      void connection.end()
    })
    return worker as Worker
  }

  /** The insert was part of the transaction: there is nothing to make sure of. */
  beforeRun(): undefined {
    return undefined
  }

  beforeSettling(): void {}

  queueEvents(name: string): QueueEvents {
    const connection = this.#openPool(2)
    const events = outsideEveryScope(
      () => new QueueEvents(name, { connection } as never, createPostgresBackend as never),
    )
    events.on('error', () => {})
    this.#closeables.push(events)
    return events as QueueEvents
  }

  flowProducer(): FlowProducer {
    if (this.#flows === undefined) {
      const { telemetry } = this.#jobs
      const options = { connection: this.#opened, ...(telemetry !== undefined && { telemetry }) }
      const flows = outsideEveryScope(() => new FlowProducer(options as never, createPostgresBackend as never))
      flows.on('error', () => {})
      this.#closeables.push(flows)
      this.#flows = flows as FlowProducer
    }
    return this.#flows
  }

  async health(): Promise<ResourceHealth> {
    await this.#opened.query('select 1')
    return { status: 'up', transport: 'postgres' }
  }

  get #opened(): Pool {
    if (this.#pool === undefined) {
      throw new InvalidOptionError('bullmq', undefined, 'used after scopes.start(), which the adapters call')
    }
    return this.#pool
  }
}

/** The resource's own sockets under pg: they know several hosts, unix sockets and every mode of TLS. */
function configOf({ user, database, password, openSocket }: PostgresTarget): PoolConfig {
  return {
    user,
    database,
    ...(password !== undefined && { password }),
    ssl: false, // the socket sees to it
    stream: () => new LateSocket(() => openSocket(START_TIMEOUT_MS)),
  }
}

function placeIn(place: PostgresTarget | PoolConfig): string {
  if ('openSocket' in place) return place.place
  const { host = 'localhost', port = 5432 } = place
  return `${host}:${port}`
}

/**
 * What BullMQ takes for a pool, and what sends its statements where the caller's transaction is. Its functions are named
 * with their schema there: the transaction has a search_path of its own.
 */
class TransactionPool extends EventEmitter {
  readonly #access: PostgresAccess
  readonly #outside: Pool
  readonly options = { keepAlive: true }

  constructor(access: PostgresAccess, outside: Pool) {
    super()
    this.#access = access
    this.#outside = outside
  }

  async query(text: string, parameters: readonly unknown[] = []): Promise<{ rows: readonly object[] }> {
    const scope = requireCurrentScope('enqueue in a transaction')
    const named = text.replace(/\b(add_job|add_jobs_bulk|add_flow)\(/, `"${SCHEMA}".$1(`)
    return { rows: await this.#access.query(scope, named, parameters) }
  }

  /** For what a backend reads about its schema when it is made. */
  connect(): Promise<unknown> {
    return this.#outside.connect()
  }

  async end(): Promise<void> {}
}
