import { type Cluster, Redis } from 'ioredis'
import { CircuitBreaker } from '../circuit-breaker.ts'
import { InvalidOptionError, SharedConnectionError } from '../errors.ts'
import { publish } from '../events.ts'
import { SiteRecorder } from '../scope/acquisition-site.ts'
import { outsideEveryScope } from '../scope/current.ts'
import type { Ledger } from '../scope/ledger.ts'
import type { Logger } from '../scope/logger.ts'
import { connectionFailure } from './connection-failure.ts'
import { ExclusiveClient, placeOf } from './exclusive-client.ts'
import type { ExclusiveLease } from './exclusive-lease.ts'
import { ExclusivePool } from './exclusive-pool.ts'
import { type Key, sharedSlot } from './key-slot.ts'
import type { ClientOptions, RedisConfig, ScriptDefinition } from './options.ts'
import { SharedClient } from './shared-client.ts'
import { WriteTurn } from './write-turn.ts'

/** The connections of one resource: the shared one, and the exclusive ones of each server. */
export class Connections {
  readonly resource: string
  readonly config: RedisConfig
  readonly shared: SharedClient
  readonly circuit: CircuitBreaker
  readonly sites: SiteRecorder
  /** What became a method by `defineCommand`. */
  readonly scripts = new Map<string, ScriptDefinition>()
  readonly #ledger: Ledger
  readonly #logger: () => Logger
  readonly #pools = new Map<string, ExclusivePool>()
  readonly #subscribers = new Set<Redis>()
  readonly #turn = new WriteTurn()
  #stopped = false

  constructor(
    resource: string,
    config: RedisConfig,
    runtime: { readonly ledger: Ledger; readonly logger: () => Logger },
  ) {
    this.resource = resource
    this.config = config
    this.#ledger = runtime.ledger
    this.sites = new SiteRecorder(config.acquisitionSites)
    this.#logger = runtime.logger
    this.circuit = new CircuitBreaker(resource, config.circuitBreaker, {
      opened: (cause) => void this.#reset(cause),
      closed: () => publish('reqscope:circuit:closed', () => ({ resource })),
    })
    this.shared = new SharedClient(resource, config, this.circuit, runtime.logger)
    for (const [name, definition] of Object.entries(config.scripts)) this.scripts.set(name, definition)
    // Those of a client that was given.
    const { scriptsSet } = this.shared.client as unknown as { scriptsSet: Record<string, ScriptDefinition> }
    for (const [name, { lua, numberOfKeys, readOnly }] of Object.entries(scriptsSet)) {
      this.scripts.set(name, { lua, ...(numberOfKeys != null && { numberOfKeys }), ...(readOnly && { readOnly }) })
    }
  }

  get isCluster(): boolean {
    return this.shared.isCluster
  }

  get pools(): readonly ExclusivePool[] {
    return [...this.#pools.values()]
  }

  /** What the client puts in front of every key. */
  get keyPrefix(): string {
    const { options } = this.shared.client
    return String(options.keyPrefix ?? (options as { redisOptions?: ClientOptions }).redisOptions?.keyPrefix ?? '')
  }

  async start(): Promise<void> {
    this.#stopped = false
    await this.shared.start()
    try {
      if (!this.isCluster) await this.#poolOf('').start()
    } catch (error) {
      await this.stop(0)
      throw error
    }
  }

  async stop(timeoutMs: number): Promise<void> {
    this.#stopped = true
    for (const pool of this.#pools.values()) pool.stop()
    this.#pools.clear()
    for (const subscriber of this.#subscribers) subscriber.disconnect()
    this.#subscribers.clear()
    await this.shared.drain(timeoutMs)
    this.shared.stop()
  }

  /** Of the connections that are idle those that are dead are closed; the others stay. */
  async #reset(cause: unknown): Promise<void> {
    if (this.#stopped) return
    const pools = await outsideEveryScope(() => Promise.all(this.pools.map((pool) => pool.reset())))
    const discarded = pools.reduce((sum, each) => sum + each.discarded, 0)
    const kept = pools.reduce((sum, each) => sum + each.kept, 0)
    publish('reqscope:circuit:opened', () => ({ resource: this.resource, discarded, kept, cause }))
    this.#logger().warn(
      { err: cause, resource: this.resource, discarded, kept },
      `${this.resource} can not be reached: its commands fail at once until it is back`,
    )
  }

  define(name: string, definition: ScriptDefinition): void {
    this.scripts.set(name, definition)
    this.shared.client.defineCommand(name, definition as { lua: string })
  }

  /** Where the exclusive connections to the server of these keys are; where there is one server, all of them. */
  poolFor(option: string, keys: readonly Key[]): ExclusivePool {
    if (!this.isCluster) return this.#poolOf('')
    const slot = sharedSlot(option, keys, this.keyPrefix)
    if (slot === undefined) {
      throw new InvalidOptionError(option, undefined, 'a key of the server that is meant: this Redis is a cluster')
    }
    const { slots } = this.shared.client as Cluster
    const master = slots[slot]?.[0]
    if (master === undefined) {
      throw connectionFailure(
        this.resource,
        this.shared.place,
        new Error(`CLUSTERDOWN no master is known for slot ${slot}`),
      )
    }
    return this.#poolOf(master)
  }

  /** Learns from a refusal where a slot is now. */
  follow(error: unknown): void {
    const [, slot, master] = /^MOVED (\d+) (\S+)/.exec((error as Error).message) ?? []
    if (slot === undefined || master === undefined || !this.isCluster) return
    const cluster = this.shared.client as Cluster
    cluster.slots[Number(slot)] = [master]
    cluster.refreshSlotsCache()
  }

  record(lease: ExclusiveLease): void {
    this.#ledger.record(lease)
  }

  strike(lease: ExclusiveLease): void {
    this.#ledger.strike(lease)
  }

  /** Makes the methods of scripts that were defined since the connection was opened. */
  equip(client: ExclusiveClient): void {
    if (this.scripts.size === 0) return
    const { scriptsSet } = client as unknown as { scriptsSet: object }
    for (const [name, definition] of this.scripts) {
      if (!(name in scriptsSet)) client.defineCommand(name, definition as { lua: string })
    }
  }

  /** A connection that only listens, on a node of the cluster or to the one server. */
  subscriber(): Redis {
    const subscriber = outsideEveryScope(
      () =>
        new Redis({
          ...this.#optionsOf(''),
          lazyConnect: false,
          enableOfflineQueue: true,
          enableAutoPipelining: false,
          autoResubscribe: true,
          maxRetriesPerRequest: null,
          scripts: undefined,
          commandTimeout: undefined,
          keyPrefix: '',
        }),
    )
    subscriber.on('error', () => {}) // it connects again by itself, and the shared connection reports what is wrong
    subscriber.once('end', () => this.#subscribers.delete(subscriber))
    this.#subscribers.add(subscriber)
    return subscriber
  }

  #poolOf(master: string): ExclusivePool {
    let pool = this.#pools.get(master)
    if (pool === undefined) {
      if (this.#stopped)
        throw new SharedConnectionError({
          resource: this.resource,
          operation: 'A connection',
          instead: 'the application closed.',
        })
      pool = new ExclusivePool(this.resource, this.config, async () => {
        const { refusal } = this.circuit
        if (refusal !== undefined) throw refusal
        return ExclusiveClient.open(this.resource, this.#optionsOf(master), this.config.connectTimeoutMs, this.#turn)
      })
      this.#pools.set(master, pool)
    }
    return pool
  }

  /** @param master `host:port` in a cluster; '' for any. */
  #optionsOf(master: string): ClientOptions {
    const { client } = this.shared
    if (client instanceof Redis || !this.isCluster) return (client as Redis).options
    const { keyPrefix } = this // the cluster's, which its nodes need not have
    const nodes = (client as Cluster).nodes('master')
    const node = nodes.find(({ options }) => master === '' || placeOf(options) === master)
    const [any] = nodes
    if (node === undefined && any !== undefined) {
      // One that has got its first slot, and that nothing was sent to yet.
      const at = master.lastIndexOf(':')
      return { ...any.options, keyPrefix, host: master.slice(0, at), port: Number(master.slice(at + 1)) }
    }
    if (node === undefined)
      throw connectionFailure(this.resource, this.shared.place, new Error('CLUSTERDOWN no master is known'))
    return { ...node.options, keyPrefix }
  }
}
