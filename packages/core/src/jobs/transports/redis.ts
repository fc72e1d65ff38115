import { FlowProducer, type Job, type Processor, Queue, QueueEvents, Worker, type WorkerOptions } from 'bullmq'
import { Redis, type RedisOptions } from 'ioredis'
import { ConnectionLostError, InvalidOptionError } from '../../errors.ts'
import type { PostgresAccess } from '../../postgres/access.ts'
import { outsideEveryScope } from '../../scope/current.ts'
import type { JobRuntime } from '../../scope/job.ts'
import type { ResourceHealth } from '../../scope/resource.ts'
import type { Scope } from '../../scope/scope.ts'
import { backgroundTask } from '../background-task.ts'
import type { JobsConfig, RedisSource, RedisTransportConfig } from '../options.ts'
import { Outbox, type OutboxRow } from '../outbox.ts'
import type { PayloadLimits } from '../payload.ts'
import { Relay } from '../relay.ts'
import { Sweeper } from '../sweeper.ts'
import { OneWrite } from './one-write.ts'
import { forgetUnlessReady, type JobEntry, type Transport } from './transport.ts'

const START_TIMEOUT_MS = 10_000

/** BullMQ on Redis. In a transaction a job goes through the outbox, and is relayed once that has committed. */
export class RedisTransport implements Transport {
  readonly name = 'redis'
  readonly limits: PayloadLimits
  readonly #runtime: JobRuntime
  readonly #config: RedisTransportConfig
  readonly #redis: RedisOptions
  readonly #jobs: JobsConfig
  readonly #outbox: Outbox | undefined
  readonly #relay: Relay | undefined
  readonly #sweeper: Sweeper | undefined
  readonly #queues = new Map<string, Queue>()
  readonly #others: { close(): Promise<void> }[] = []
  #producer: Redis | undefined
  #producing: OneWrite | undefined
  #consumer: Redis | undefined
  #consuming: OneWrite | undefined
  #flows: FlowProducer | undefined

  constructor(
    runtime: JobRuntime,
    access: PostgresAccess | undefined,
    jobs: JobsConfig,
    config: RedisTransportConfig,
    source: RedisSource,
  ) {
    this.#runtime = runtime
    this.#jobs = jobs
    this.limits = { maxBytes: jobs.maxPayloadBytes, asJsonb: false }
    this.#config = config
    this.#redis = optionsOf(source)
    if (access === undefined) return
    this.#outbox = new Outbox(access, config.outbox)
    this.#relay = new Relay(runtime, this.#outbox, access.name, (queue, rows) => this.#add(queue, rows))
    this.#sweeper = new Sweeper(runtime, this.#relay, config.outbox.sweepIntervalMs)
  }

  async start(): Promise<void> {
    const { commandTimeoutMs } = this.#config
    // Whoever enqueues is told soon when Redis is away; a worker waits for it for as long as it takes.
    this.#producer = this.#connect({ maxRetriesPerRequest: 1, commandTimeout: commandTimeoutMs })
    this.#consumer = this.#connect({ maxRetriesPerRequest: null })
    this.#producing = new OneWrite(this.#producer)
    this.#consuming = new OneWrite(this.#consumer)
    try {
      await Promise.all([this.#producer, this.#consumer].map((client) => ready(client)))
    } catch (cause) {
      this.#disconnect()
      throw this.#unreachable(cause)
    }
    const outbox = this.#outbox
    if (outbox !== undefined) {
      await backgroundTask(this.#runtime, 'creation of the outbox', START_TIMEOUT_MS, (scope) => outbox.create(scope))
    }
    this.#sweeper?.start()
  }

  #connect(more: RedisOptions): Redis {
    return outsideEveryScope(() => {
      const options = {
        ...this.#redis,
        ...more,
        lazyConnect: false,
        enableOfflineQueue: true,
        retryStrategy: (times: number) => Math.min(50 * 2 ** Math.min(times, 6), 2_000),
      } satisfies RedisOptions
      const client = new Redis(options as object)
      client.on('error', () => {}) // said by whoever uses it
      return client
    })
  }

  async stop(timeoutMs: number): Promise<void> {
    const timer = outsideEveryScope(() => setTimeout(() => this.#disconnect(), timeoutMs))
    try {
      await this.#sweeper?.stop()
      await this.#relay?.flushed()
      await Promise.allSettled([...this.#queues.values(), ...this.#others].map((each) => each.close()))
    } finally {
      clearTimeout(timer)
      this.#disconnect()
      this.#queues.clear()
    }
  }

  #disconnect(): void {
    this.#producer?.disconnect()
    this.#consumer?.disconnect()
  }

  queue(name: string): Queue {
    let queue = this.#queues.get(name)
    if (queue === undefined) {
      queue = outsideEveryScope(() => new Queue(name, this.#queueOptions))
      queue.on('error', () => {}) // every call rejects by itself
      this.#queues.set(name, queue)
      forgetUnlessReady(this.#queues, name, queue)
    }
    return queue
  }

  get #queueOptions() {
    if (this.#producer === undefined) throw notStarted()
    const { telemetry, defaultJobOptions } = this.#jobs
    return {
      connection: this.#producer,
      prefix: this.#config.prefix,
      defaultJobOptions,
      ...(telemetry !== undefined && { telemetry }),
    }
  }

  add({ queue, name, data, opts }: JobEntry): Promise<Job> {
    const target = this.queue(queue)
    this.#producing?.gather()
    return target.add(name, data, opts)
  }

  async addInTransaction(scope: Scope, entries: readonly JobEntry[]): Promise<string[]> {
    const telemetry = this.#traceOfCaller()
    const traced =
      telemetry === undefined ? entries : entries.map((entry) => ({ ...entry, opts: { ...entry.opts, telemetry } }))
    const ids = (await this.#outbox?.insert(scope, traced)) ?? []
    scope.afterCommit(() => this.#relay?.soon(ids))
    return ids
  }

  /** What `queue.add` would send along; the relay has a context of its own. */
  #traceOfCaller(): { metadata: string } | undefined {
    const manager = this.#jobs.telemetry?.contextManager
    return manager && { metadata: manager.getMetadata(manager.active()) }
  }

  async #add(queue: string, rows: readonly OutboxRow[]): Promise<void> {
    try {
      await this.queue(queue).addBulk(
        rows.map(({ id, name, data, opts }) => ({ name, data: JSON.parse(data), opts: { ...opts, jobId: id } })),
      )
    } catch (error) {
      // What timed out may still be under way: it must not arrive after the job was added again, run and removed.
      this.#producer?.disconnect(true)
      throw error
    }
  }

  worker(queue: string, processor: Processor, options: Omit<WorkerOptions, 'connection'>): Worker {
    const connection = this.#consumer
    if (connection === undefined) throw notStarted()
    return outsideEveryScope(
      () => new Worker(queue, processor, { ...options, prefix: this.#config.prefix, connection }),
    )
  }

  beforeRun(scope: Scope, job: Job): Promise<void> | undefined {
    if (!Outbox.isFrom(job.id)) return undefined
    if (this.#outbox !== undefined) return this.#outbox.forget(scope, job.id)
    scope.log.warn(
      {},
      'a job came through an outbox, and this runtime has no Postgres resource to see that it runs once',
    )
    return undefined
  }

  beforeSettling(): void {
    this.#consuming?.gather()
  }

  queueEvents(queue: string): QueueEvents {
    const connection = this.#consumer
    if (connection === undefined) throw notStarted()
    const events = outsideEveryScope(() => new QueueEvents(queue, { connection, prefix: this.#config.prefix }))
    events.on('error', () => {})
    this.#others.push(events)
    return events
  }

  flowProducer(): FlowProducer {
    if (this.#flows === undefined) {
      const flows = outsideEveryScope(() => new FlowProducer(this.#queueOptions))
      flows.on('error', () => {})
      this.#others.push(flows)
      this.#flows = flows
    }
    return this.#flows
  }

  async health(): Promise<ResourceHealth> {
    const outbox = this.#outbox
    const [redis, size] = await Promise.allSettled([
      this.#producer?.ping() ?? Promise.reject(notStarted()),
      outbox && backgroundTask(this.#runtime, 'health of the outbox', 2_000, (scope) => outbox.measure(scope)),
    ])
    if (redis.status === 'rejected') return { status: 'down', transport: 'redis', error: messageOf(redis.reason) }
    if (size.status === 'rejected') return { status: 'degraded', transport: 'redis', error: messageOf(size.reason) }
    const error = this.#sweeper?.lastFailure
    return {
      status: error === undefined ? 'up' : 'degraded',
      transport: 'redis',
      ...(size.value !== undefined && { outbox: size.value, outboxLagMs: size.value.oldestMs }),
      ...(error !== undefined && { error }),
    }
  }

  /** The place, never the password. */
  #unreachable(cause: unknown): ConnectionLostError {
    const { host = 'localhost', port = 6379, path } = this.#redis
    return new ConnectionLostError({
      resource: 'jobs',
      reason: 'unreachable',
      message: `Redis at ${path ?? `${host}:${port}`} (jobs) can't be reached: ${messageOf(cause)}.`,
      cause,
    })
  }
}

/** A URL means here what it means to ioredis. */
function optionsOf({ url, connection }: RedisSource): RedisOptions {
  // What another client wants of its connection besides its place is that client's: BullMQ has a prefix of its own.
  if (url === undefined) {
    const { keyPrefix: _prefix, scripts: _scripts, connectionName: _name, ...place } = connection ?? {}
    return { ...place, enableAutoPipelining: false }
  }
  const client = new Redis(url, { lazyConnect: true })
  client.disconnect()
  return client.options
}

function ready(client: Redis): Promise<void> {
  if (client.status === 'ready') return Promise.resolve()
  return new Promise((resolve, reject) => {
    let last: Error | undefined
    const timer = setTimeout(
      () => reject(last ?? new Error(`not ready within ${START_TIMEOUT_MS} ms`)),
      START_TIMEOUT_MS,
    )
    const settle = (settled: () => void) => {
      clearTimeout(timer)
      settled()
    }
    client.once('ready', () => settle(resolve))
    client.on('error', (error: Error) => {
      last = error
      // A server that is there and refuses will go on refusing.
      if (/NOAUTH|WRONGPASS|ECONNREFUSED|ENOTFOUND/.test(`${error.message} ${(error as { code?: string }).code}`)) {
        settle(() => reject(error))
      }
    })
  })
}

function notStarted(): Error {
  return new InvalidOptionError('bullmq', undefined, 'used after scopes.start(), which the adapters call')
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
