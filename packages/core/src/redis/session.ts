import type { ReqscopeError } from '../errors.ts'
import { ScopeEndedError } from '../errors.ts'
import { OptionReader } from '../options.ts'
import type { AcquisitionSite } from '../scope/acquisition-site.ts'
import { assertUsable } from '../scope/ownership.ts'
import type { Scope } from '../scope/scope.ts'
import type { Connections } from './connections.ts'
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
  #leases: Set<ExclusiveLease> | undefined
  #pools: Set<ExclusivePool> | undefined
  #arming: Promise<unknown> | undefined
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
      if (this.#arming === undefined) return this.#counted(shared.send(method, args))
      return this.#counted(this.#arming.then(() => shared.send(method, args)))
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
    return this.#arming
  }

  /** A WATCH is on its way. */
  arm(watched: Promise<unknown>): void {
    const arming = Promise.allSettled([this.#arming, watched]).then(() => {
      if (this.#arming === arming) this.#arming = undefined
    })
    this.#arming = arming
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
      return await fn(new ExclusiveConnection(lease, this))
    } finally {
      await lease.release()
    }
  }

  /** Leases a connection to the server of these keys. */
  async lease(
    option: string,
    keys: readonly Key[],
    kind: 'pinned' | 'transaction',
    below: (...args: never[]) => unknown,
  ): Promise<ExclusiveLease> {
    this.assertUsable()
    const site = this.connections.sites.record(this.scope.name, below)
    const { shared } = this.connections
    if (this.connections.isCluster && !shared.isReady) await shared.sending(() => Promise.resolve())
    const pool = this.connections.poolFor(option, keys)
    this.#pools ??= new Set()
    this.#pools.add(pool)
    const acquired = pool.acquire(this)
    const client = acquired instanceof Promise ? await acquired : acquired
    try {
      this.assertUsable() // it may have ended while it waited
    } catch (error) {
      pool.giveBack(client)
      throw error
    }
    this.connections.equip(client)
    const lease = new ExclusiveLease(client, kind, this, pool, site)
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
    for (const pool of this.#pools ?? []) pool.refuse(this, reason)
    for (const lease of [...(this.#leases ?? [])]) lease.revoke(reason)
  }

  /** The scope has ended: whatever it still holds is taken back. */
  release(): Promise<void> | undefined {
    if (this.#pools === undefined || (this.holds === 0 && ![...this.#pools].some((pool) => pool.hasWaiters))) {
      return undefined
    }
    const ended = new ScopeEndedError({
      scope: this.scope,
      resource: this.resource,
      takenAt: this.takenAt?.toString(),
    })
    for (const pool of this.#pools) pool.refuse(this, ended)
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
