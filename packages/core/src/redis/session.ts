import type { ReqscopeError } from '../errors.ts'
import { ScopeEndedError } from '../errors.ts'
import { OptionReader } from '../options.ts'
import type { AcquisitionSite } from '../scope/acquisition-site.ts'
import { assertUsable } from '../scope/ownership.ts'
import type { Scope } from '../scope/scope.ts'
import type { Connections } from './connections.ts'
import type { ExclusiveClient } from './exclusive-client.ts'
import { ExclusiveConnection } from './exclusive-connection.ts'
import { ExclusiveLease, type LeaseHolder } from './exclusive-lease.ts'
import type { Borrower, ExclusivePool } from './exclusive-pool.ts'
import type { Key } from './key-slot.ts'
import type { ReplyTimeouts } from './reply-timeouts.ts'

export interface ExclusiveCallOptions {
  /** A key of the server that is meant; needed in a cluster, and only there. */
  readonly key?: Key
}

/** All that one scope does with one Redis resource. */
export class RedisSession implements Borrower, LeaseHolder {
  readonly scope: Scope
  readonly connections: Connections
  readonly takenAt: AcquisitionSite | undefined
  waits = 0
  #leases: Set<ExclusiveLease> | undefined
  /** Where it waits for a connection, once for each. */
  #waitsAt: ExclusivePool[] | undefined
  /** Each WATCH that is on its way. */
  #arming: Set<Promise<unknown>> | undefined
  /** Where a summary is asked for. */
  readonly #sent: { commands: number; commandsMs: number } | undefined

  constructor(scope: Scope, connections: Connections) {
    this.scope = scope
    this.connections = connections
    this.takenAt = connections.sites.record(scope.name, scope.handleOf)
    this.#sent = scope.isSummarised ? { commands: 0, commandsMs: 0 } : undefined
  }

  get resource(): string {
    return this.connections.resource
  }

  get timeouts(): ReplyTimeouts {
    return this.connections.shared.timeouts
  }

  get holds(): number {
    return this.#leases?.size ?? 0
  }

  /** @throws what `assertUsable` throws. */
  assertUsable(): void {
    assertUsable(this.scope, this.connections.resource, this.takenAt)
  }

  /** Sends a command on the shared connection. */
  send(method: string, args: readonly unknown[]): Promise<unknown> {
    try {
      this.assertUsable()
      const { shared } = this.connections
      const { armed } = this
      if (armed === undefined) return this.#counted(shared.send(method, args))
      return this.#counted(armed.then(() => shared.send(method, args)))
    } catch (error) {
      return Promise.reject(error)
    }
  }

  #counted(reply: Promise<unknown>): Promise<unknown> {
    const sent = this.#sent
    if (sent === undefined) return reply
    const startedAt = performance.now()
    const settled = () => {
      sent.commands++
      sent.commandsMs += performance.now() - startedAt
    }
    reply.then(settled, settled)
    return reply
  }

  /** How many commands it sent on the shared connection, and how long they took, where a summary was asked for. */
  get summary(): object {
    const { commands = 0, commandsMs = 0 } = this.#sent ?? {}
    return { commands, commandsMs: Math.round(commandsMs * 100) / 100 }
  }

  /** Resolves when what an `optimistic` of this scope reads is guarded: nothing is read before. */
  get armed(): Promise<unknown> | undefined {
    const arming = this.#arming
    return arming === undefined || arming.size === 0 ? undefined : Promise.allSettled(arming)
  }

  /** A WATCH is on its way. */
  arm(watched: Promise<unknown>): void {
    this.#arming ??= new Set()
    const arming = this.#arming
    const disarm = () => void arming.delete(watched)
    arming.add(watched)
    watched.then(disarm, disarm)
  }

  /** Runs `fn` with a connection of its own. */
  async exclusive<Result>(
    options: ExclusiveCallOptions,
    fn: (connection: ExclusiveConnection) => Result | Promise<Result>,
  ): Promise<Result> {
    new OptionReader('redis.exclusive', options).onlyKnown(['key'])
    const keys = options.key === undefined ? [] : [options.key]
    const lease = await this.lease('redis.exclusive.key', keys, 'pinned', this.exclusive)
    try {
      return await fn(new ExclusiveConnection(lease, this, this.connections.scripts.keys()))
    } finally {
      await lease.release()
    }
  }

  /** Leases a connection to the server of these keys, at once where one is idle. */
  lease(
    option: string,
    keys: readonly Key[],
    kind: 'pinned' | 'transaction',
    below: (...args: never[]) => unknown,
  ): ExclusiveLease | Promise<ExclusiveLease> {
    this.assertUsable()
    const site = this.connections.sites.record(this.scope.name, below)
    const { shared, isCluster } = this.connections
    const begin = () => this.#leaseFrom(this.connections.poolFor(option, keys), kind, site)
    // Until it has connected it does not know which server has which keys.
    return isCluster && !shared.isReady ? shared.sending(() => Promise.resolve()).then(begin) : begin()
  }

  #leaseFrom(
    pool: ExclusivePool,
    kind: 'pinned' | 'transaction',
    site: AcquisitionSite | undefined,
  ): ExclusiveLease | Promise<ExclusiveLease> {
    const acquired = pool.acquire(this)
    return acquired instanceof Promise
      ? this.#leaseLater(acquired, pool, kind, site)
      : this.#begin(new ExclusiveLease(acquired, kind, this, pool, site), pool)
  }

  async #leaseLater(
    acquired: Promise<ExclusiveClient>,
    pool: ExclusivePool,
    kind: 'pinned' | 'transaction',
    site: AcquisitionSite | undefined,
  ): Promise<ExclusiveLease> {
    this.#waitsAt ??= []
    const waitsAt = this.#waitsAt
    waitsAt.push(pool)
    let client: ExclusiveClient
    try {
      client = await acquired
    } finally {
      waitsAt.splice(waitsAt.indexOf(pool), 1)
    }
    try {
      this.assertUsable() // it may have ended while it waited
    } catch (error) {
      pool.giveBack(client)
      throw error
    }
    return this.#begin(new ExclusiveLease(client, kind, this, pool, site), pool)
  }

  #begin(lease: ExclusiveLease, pool: ExclusivePool): ExclusiveLease {
    this.connections.equip(lease.client)
    this.#leases ??= new Set()
    this.#leases.add(lease)
    pool.leases.add(lease)
    this.connections.record(lease)
    return lease
  }

  refused(error: unknown): void {
    if (this.connections.isCluster) this.connections.follow(error)
  }

  returned(lease: ExclusiveLease): void {
    this.#leases?.delete(lease)
    this.connections.strike(lease)
  }

  /** Closes what the scope holds, and refuses what it waits for. */
  cancel(reason: ReqscopeError): void {
    this.#refuseWaits(reason)
    for (const lease of [...(this.#leases ?? [])]) lease.revoke(reason)
  }

  #refuseWaits(reason: ReqscopeError): void {
    for (const pool of new Set(this.#waitsAt)) pool.refuse(this, reason)
  }

  /** The scope has ended: whatever it still holds is taken back. */
  release(): Promise<void> | undefined {
    if (this.holds === 0 && !this.#waitsAt?.length) return undefined
    const ended = new ScopeEndedError({
      scope: this.scope,
      resource: this.resource,
      takenAt: this.takenAt?.toString(),
    })
    this.#refuseWaits(ended)
    const returning: Promise<void>[] = []
    for (const lease of [...(this.#leases ?? [])]) {
      if (lease.isOver) {
        const done = lease.release() // it is being restored
        if (done !== undefined) returning.push(done)
        continue
      }
      lease.reportReclaimed()
      lease.revoke(ended)
    }
    return returning.length === 0 ? undefined : Promise.all(returning).then(() => {})
  }
}
