import { setTimeout as delay } from 'node:timers/promises'
import { type ChainableCommander, type Command, Redis, type RedisCommander } from 'ioredis'
import {
  ConnectionLostError,
  ExecCommandError,
  InvalidOptionError,
  OptimisticConflictError,
  SharedConnectionError,
  UNSHOWN,
} from '../errors.ts'
import { OptionReader } from '../options.ts'
import { outsideEveryScope } from '../scope/current.ts'
import { connectionEffectOf } from './connection-commands.ts'
import type { ExclusiveLease } from './exclusive-lease.ts'
import { READ_COMMANDS, type ReadCommand } from './read-commands.ts'
import { type Pipeline, refuse, scopedPipeline, withCallback } from './scoped-pipeline.ts'
import type { RedisSession } from './session.ts'

export interface OptimisticOptions {
  /** How often it is tried altogether. Default 5. */
  readonly attempts?: number
  /** How long to wait between two attempts at most, in milliseconds; the wait is random and grows. Default 100. */
  readonly maxDelayMs?: number
}

/** Returned by `tx.abandon()`. */
export interface Abandoned {
  readonly abandoned: true
}
const ABANDONED: Abandoned = Object.freeze({ abandoned: true })

const FIRST_DELAY_MS = 2

type Methods = Readonly<Record<string, (...args: unknown[]) => unknown>>

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
  #executing = false
  #multis: Set<unknown> | undefined

  /** @internal */
  constructor(lease: ExclusiveLease, session: RedisSession, attempt: number, watching: Promise<unknown>) {
    this.#lease = lease
    this.#session = session
    this.attempt = attempt
    this.watching = watching
  }

  /** Writes nothing; to be returned. */
  abandon(): Abandoned {
    return ABANDONED
  }

  /** @internal */
  static read(tx: OptimisticTransaction, method: string, name: string, args: unknown[]): Promise<unknown> {
    const callback = typeof args.at(-1) === 'function' ? args.pop() : undefined
    return withCallback(tx.#read(method, name, args), callback)
  }

  #read(method: string, name: string, args: unknown[]): Promise<unknown> {
    try {
      this.#lease.assertHeld(name.toUpperCase())
      this.#session.assertUsable()
      const flat = args.flat()
      if (connectionEffectOf(name, flat) !== undefined) refuse(this.#session.resource, { name, args: flat } as Command)
      const sent = (this.#lease.client as unknown as Methods)[method]?.(...args) as Promise<unknown>
      return this.#lease.reply(sent, { bounded: true })
    } catch (error) {
      return Promise.reject(error)
    }
  }

  /** @internal */
  static multi(tx: OptimisticTransaction, commands: unknown): Pipeline {
    return tx.#multi(commands)
  }

  #multi(commands: unknown): Pipeline {
    const { resource } = this.#session
    const owner = {
      resource,
      execute: (run: () => Promise<unknown>) => {
        if (this.#executing) return run()
        const operation = 'exec() of tx.multi()'
        const instead = 'return the commands from the function of optimistic, which executes them.'
        return Promise.reject(new SharedConnectionError({ resource, operation, instead }))
      },
    }
    const list = Array.isArray(commands) ? commands : undefined
    const multi = scopedPipeline(this.#lease.client, 'multi', owner, list, isHarmless)
    this.#multis ??= new Set()
    this.#multis.add(multi)
    return multi
  }

  /** @internal */
  static owns(tx: OptimisticTransaction, result: unknown): result is Pipeline {
    return tx.#multis?.has(result) === true
  }

  /** @internal */
  static async execute(tx: OptimisticTransaction, multi: Pipeline): Promise<Replies | null> {
    tx.#executing = true
    return (await multi.exec()) as Replies | null
  }
}

type Replies = [error: Error | null, reply: unknown][]

function isHarmless(command: Command): boolean {
  return connectionEffectOf(command.name.toLowerCase(), command.args) === undefined
}

/** See ScopedRedis.optimistic. */
export async function runOptimistic(
  session: RedisSession,
  keys: readonly string[],
  options: OptimisticOptions,
  fn: (tx: OptimisticTransaction) => unknown,
): Promise<unknown[] | undefined> {
  const { attempts, maxDelayMs } = checked(keys, options, fn)
  for (let attempt = 1; ; attempt++) {
    const done = await tryOnce(session, keys, fn, attempt).catch((error: unknown): typeof CONFLICT => {
      // Its slot has moved to another master, where the next attempt goes; nothing was written on this one.
      if (attempt >= attempts || !isMoved(error)) throw error
      return CONFLICT
    })
    if (done !== CONFLICT) return done
    if (attempt >= attempts) throw new OptimisticConflictError({ resource: session.resource, keys, attempts })
    const longest = Math.min(maxDelayMs, FIRST_DELAY_MS * 2 ** (attempt - 1))
    await outsideEveryScope(() => delay(Math.random() * longest))
  }
}

function isMoved(error: unknown): boolean {
  return error instanceof Error && error.message.startsWith('MOVED ')
}

const CONFLICT: unique symbol = Symbol('conflict')

async function tryOnce(
  session: RedisSession,
  keys: readonly string[],
  fn: (tx: OptimisticTransaction) => unknown,
  attempt: number,
): Promise<unknown[] | undefined | typeof CONFLICT> {
  const lease = await session.lease('redis.optimistic.keys', keys, 'transaction', runOptimistic)
  try {
    const { stream } = lease.client
    // WATCH goes out with what the function reads first: one round trip for both.
    stream.cork()
    const watched = lease.reply(lease.client.watch(...keys), { bounded: true })
    session.arm(watched)
    const tx = new OptimisticTransaction(lease, session, attempt, watched)
    let result: unknown
    try {
      result = fn(tx)
    } finally {
      stream.uncork()
    }
    result = await result
    await watched // without it EXEC would guard nothing
    if (result === ABANDONED) return undefined
    if (!OptimisticTransaction.owns(tx, result)) {
      throw new InvalidOptionError(
        'redis.optimistic.fn',
        UNSHOWN,
        'a function that returns tx.multi() with its commands, or tx.abandon()',
      )
    }
    session.assertUsable()
    lease.assertHeld('EXEC')
    return await execute(session, lease, tx, result)
  } finally {
    // Not waited for: a connection that has to be un-watched first is lent to nobody before it is.
    void lease.release()
  }
}

async function execute(
  session: RedisSession,
  lease: ExclusiveLease,
  tx: OptimisticTransaction,
  multi: Pipeline,
): Promise<unknown[] | typeof CONFLICT> {
  const { resource } = session
  if (lease.client.isGone) throw lease.client.lostError(new Error('Connection is closed.'))
  let replies: Replies | null
  try {
    replies = await lease.reply(OptimisticTransaction.execute(tx, multi), { bounded: true, outcome: 'unknown' })
  } catch (error) {
    if (error instanceof ConnectionLostError) throw error
    const { previousErrors = [] } = error as { previousErrors?: Error[] }
    const [first] = previousErrors
    if (first === undefined || isMoved(first)) throw first ?? error
    throw new ExecCommandError({ resource, index: indexOf(first, multi), applied: false, cause: first })
  }
  if (replies === null) return CONFLICT
  const index = replies.findIndex(([error]) => error !== null)
  if (index >= 0) throw new ExecCommandError({ resource, index, applied: true, cause: replies[index]?.[0] })
  return replies.map(([, reply]) => reply)
}

/** Which command of the MULTI was refused while it was queued. */
function indexOf(error: Error, multi: Pipeline): number {
  const results = (multi as unknown as { _result: [Error | null, unknown][] })._result
  return Math.max(0, results.findIndex(([each]) => each === error) - 1) // the first is MULTI itself
}

function checked(keys: readonly string[], options: OptimisticOptions, fn: unknown): Required<OptimisticOptions> {
  if (
    !Array.isArray(keys) ||
    keys.length === 0 ||
    keys.some((key) => typeof key !== 'string' && !Buffer.isBuffer(key))
  ) {
    throw new InvalidOptionError('redis.optimistic.keys', UNSHOWN, 'a list of at least one key')
  }
  if (typeof fn !== 'function') throw new InvalidOptionError('redis.optimistic.fn', fn, 'a function')
  const read = new OptionReader('redis.optimistic', options).onlyKnown(['attempts', 'maxDelayMs'])
  return {
    attempts: read.integer('attempts', 5, { min: 1, max: 1_000 }),
    maxDelayMs: read.milliseconds('maxDelayMs', 100),
  }
}

interface AnyTransaction {
  [name: string]: unknown
}

const prototype = OptimisticTransaction.prototype as unknown as AnyTransaction
const reads: ReadonlySet<string> = new Set(READ_COMMANDS)
for (const name of Redis.prototype.getBuiltinCommands()) {
  for (const method of [name, `${name}Buffer`]) {
    prototype[method] = reads.has(name)
      ? function (this: OptimisticTransaction, ...args: unknown[]) {
          return OptimisticTransaction.read(this, method, name, args)
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
