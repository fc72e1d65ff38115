import { type ChainableCommander, type Command, Redis, type RedisCommander } from 'ioredis'
import { SharedConnectionError } from '../errors.ts'
import { owner } from '../scope/ownership.ts'
import type { Scope } from '../scope/scope.ts'
import { connectionEffectOf } from './connection-commands.ts'
import type { ExclusiveLease } from './exclusive-lease.ts'
import { QueuedCommands } from './queued-commands.ts'
import { READ_COMMANDS, type ReadCommand } from './read-commands.ts'
import { refuse, withCallback } from './scoped-pipeline.ts'
import type { RedisSession } from './session.ts'

/** Returned by `tx.abandon()`. */
export interface Abandoned {
  readonly abandoned: true
}
export const ABANDONED: Abandoned = Object.freeze({ abandoned: true })

/** What `optimistic` gives its function: commands that read, on the connection that watches. */
export interface OptimisticTransaction
  extends Pick<
    RedisCommander<{ type: 'default' }>,
    ReadCommand | Extract<keyof RedisCommander, `${ReadCommand}Buffer`>
  > {
  /** The commands to run if nothing has changed: to be returned, not executed. */
  multi(commands?: unknown[][]): ChainableCommander
}

export class OptimisticTransaction {
  /** Counted from 1. */
  readonly attempt: number
  /**
   * Resolves when the keys are watched. What is read through `tx` or the scope's `redis` is read after that anyhow; wait
   * for it before reading anything else that must not change meanwhile, a row for one.
   */
  readonly watching: Promise<unknown>
  readonly #lease: ExclusiveLease
  readonly #session: RedisSession
  readonly #check: ((command: Command) => void) | undefined
  #queued: Set<unknown> | undefined

  /** @internal Made by `optimistic`, which has sent the WATCH. */
  constructor(
    lease: ExclusiveLease,
    session: RedisSession,
    attempt: number,
    watching: Promise<unknown>,
    check: ((command: Command) => void) | undefined,
  ) {
    this.#lease = lease
    this.#session = session
    this.attempt = attempt
    this.watching = watching
    this.#check = check
  }

  get [owner](): Scope {
    return this.#session.scope
  }

  /** Writes nothing; to be returned. */
  abandon(): Abandoned {
    return ABANDONED
  }

  /** @internal */
  static read(tx: OptimisticTransaction, isBuffer: boolean, name: string, args: unknown[]): Promise<unknown> {
    const callback = typeof args.at(-1) === 'function' ? args.pop() : undefined
    return withCallback(tx.#read(isBuffer, name, args), callback)
  }

  #read(isBuffer: boolean, name: string, args: unknown[]): Promise<unknown> {
    try {
      this.#lease.assertHeld(name.toUpperCase())
      this.#session.assertUsable()
      const command = this.#lease.client.makeCommand(name, args, isBuffer ? null : 'utf8')
      if (connectionEffectOf(name, command.args) !== undefined) refuse(this.#session.resource, command)
      return this.#lease.send(command)
    } catch (error) {
      return Promise.reject(error)
    }
  }

  /** @internal */
  static multi(tx: OptimisticTransaction, commands: unknown): QueuedCommands {
    const queued = new QueuedCommands(tx.#lease.client, tx.#session, tx.#check)
    tx.#queued ??= new Set()
    tx.#queued.add(queued)
    return Array.isArray(commands) ? queued.addBatch(commands as unknown[][]) : queued
  }

  /** @internal Whether it made these. */
  static owns(tx: OptimisticTransaction, result: unknown): result is QueuedCommands {
    return tx.#queued?.has(result) === true
  }
}

const prototype = OptimisticTransaction.prototype as unknown as Record<string, unknown>
const reads: ReadonlySet<string> = new Set(READ_COMMANDS)
for (const name of Redis.prototype.getBuiltinCommands()) {
  for (const isBuffer of [false, true]) {
    prototype[isBuffer ? `${name}Buffer` : name] = reads.has(name)
      ? function (this: OptimisticTransaction, ...args: unknown[]) {
          return OptimisticTransaction.read(this, isBuffer, name, args)
        }
      : () => {
          throw new SharedConnectionError({
            resource: 'the transaction of optimistic',
            operation: name.toUpperCase(),
            instead:
              'it would be done in every attempt, whatever becomes of it. Read through tx, and write through the tx.multi() that you return.',
          })
        }
  }
}
prototype.multi = function (this: OptimisticTransaction, commands?: unknown) {
  return OptimisticTransaction.multi(this, commands)
}
