import type { Command } from 'ioredis'
import { type ReqscopeError, SharedConnectionError } from '../errors.ts'
import { type LeaseDescription, publish } from '../events.ts'
import type { AcquisitionSite } from '../scope/acquisition-site.ts'
import { outsideEveryScope } from '../scope/current.ts'
import type { Scope } from '../scope/scope.ts'
import { isConnectionFailure } from './connection-failure.ts'
import type { ExclusiveClient } from './exclusive-client.ts'
import type { ExclusivePool } from './exclusive-pool.ts'
import type { ReplyGuard, ReplyTimeouts } from './reply-timeouts.ts'

/** What of its borrower a lease needs. */
export interface LeaseHolder {
  readonly scope: Scope
  readonly resource: string
  readonly timeouts: ReplyTimeouts
  /** Told what Redis refused. */
  refused(error: unknown): void
  /** The lease is over. */
  returned(lease: ExclusiveLease): void
}

/** An exclusive hold of one connection by one scope. */
export class ExclusiveLease implements ReplyGuard {
  readonly client: ExclusiveClient
  readonly kind: 'pinned' | 'transaction'
  readonly #holder: LeaseHolder
  readonly #pool: ExclusivePool
  readonly #site: AcquisitionSite | undefined
  readonly #since = performance.now()
  #over: Promise<void> | true | undefined
  #takenBy: ReqscopeError | undefined
  #reportedAsLeak = false

  constructor(
    client: ExclusiveClient,
    kind: 'pinned' | 'transaction',
    holder: LeaseHolder,
    pool: ExclusivePool,
    site: AcquisitionSite | undefined,
  ) {
    this.client = client
    this.kind = kind
    this.#holder = holder
    this.#pool = pool
    this.#site = site
  }

  get isOver(): boolean {
    return this.#over !== undefined
  }

  /** @throws SharedConnectionError once it has been given back. */
  assertHeld(operation: string): void {
    if (this.#over === undefined) return
    if (this.#takenBy !== undefined) throw this.#takenBy
    throw new SharedConnectionError({
      resource: this.#holder.resource,
      operation,
      instead:
        'its function has returned and the connection is given back. Await every command before the function returns.',
    })
  }

  /** Sends a command, and waits for its reply as `reply` does. */
  send(command: Command): Promise<unknown> {
    const reply = this.#holder.timeouts.boundCommand(command, this)
    this.client.sendCommand(command)
    return reply
  }

  /** Waits for a reply, for so long as a reply may take, and says what happened to the connection when none comes. */
  reply<Result>(work: PromiseLike<Result>, options: { bounded: boolean; outcome?: 'unknown' }): Promise<Result> {
    const failed = (error: unknown) => this.failure(error, options.outcome)
    if (!options.bounded) {
      return Promise.resolve(work).catch((error: unknown) => {
        throw failed(error)
      })
    }
    return this.#holder.timeouts.bound(work, { late: () => failed(this.#dropped()), failed })
  }

  late(): unknown {
    return this.failure(this.#dropped())
  }

  failed(error: unknown): unknown {
    return this.failure(error)
  }

  #dropped(): Error {
    // What was asked may still be answered, and then to somebody else.
    this.client.drop('Command timed out')
    return new Error('Command timed out')
  }

  /** What a failed command is reported as. */
  failure(error: unknown, outcome?: 'unknown'): unknown {
    if (!this.client.isGone && !isConnectionFailure(error)) {
      this.#holder.refused(error)
      return error
    }
    if (outcome !== undefined && !wasNotSent(error)) return this.client.lostError(error, outcome)
    return this.#holder.scope.cancelReason ?? this.#takenBy ?? this.client.lostError(error)
  }

  /** Gives it back, once: clean, or not at all. Returns nothing where that could be done at once. */
  release(): Promise<void> | undefined {
    if (this.#over !== undefined) return this.#over === true ? undefined : this.#over
    const { client } = this
    if (client.isClean) {
      this.#strike()
      this.#pool.giveBack(client)
      return undefined
    }
    this.#over = outsideEveryScope(() => this.#restore())
    return this.#over
  }

  async #restore(): Promise<void> {
    const { client } = this
    const restored = await client.makeClean(this.#holder.timeouts.timeoutMs)
    this.#strike()
    if (restored) this.#pool.giveBack(client)
    else client.drop(client.spoiltBy)
  }

  /** Takes it away from its holder, and closes the connection. */
  revoke(reason: ReqscopeError): void {
    if (this.#over === true) return
    this.#takenBy = reason
    this.client.drop(reason.message)
    this.#strike()
  }

  #strike(): void {
    if (this.#over === true) return
    this.#over = true
    this.#pool.leases.delete(this)
    if (this.#reportedAsLeak) {
      const lease = this.describe()
      publish('reqscope:lease:returned-late', () => ({ lease }))
      this.#warn(lease, 'a lease that was reported as leaking has been returned after all')
    }
    this.#holder.returned(this)
  }

  inspect(now: number): void {
    const { leakThresholdMs } = this.#pool.config
    if (leakThresholdMs === 0 || this.#reportedAsLeak || now - this.#since < leakThresholdMs) return
    this.#reportedAsLeak = true
    const lease = this.describe()
    publish('reqscope:lease:leaking', () => ({ lease }))
    this.#warn(lease, `an exclusive connection has been held for more than ${leakThresholdMs} ms: is it leaking?`)
  }

  reportReclaimed(): void {
    const lease = this.describe()
    publish('reqscope:lease:reclaimed', () => ({ lease }))
    this.#warn(lease, 'a scope ended while its exclusive connection was still in use; it was taken back')
  }

  #warn(lease: LeaseDescription, message: string): void {
    this.#holder.scope.log.warn({ resource: this.#holder.resource, lease }, message)
  }

  describe(): LeaseDescription {
    const { scope, resource } = this.#holder
    return {
      resource,
      scope: { id: scope.id, kind: scope.kind, name: scope.name },
      backend: this.client.backend,
      state: this.kind,
      heldMs: Math.round(performance.now() - this.#since),
      statement: this.client.lastCommand,
      site: this.#site?.toString(),
    }
  }
}

/** ioredis' word for a command that it did not write, because the socket was closed already. */
function wasNotSent(error: unknown): boolean {
  return error instanceof Error && error.message.startsWith("Stream isn't writeable")
}
