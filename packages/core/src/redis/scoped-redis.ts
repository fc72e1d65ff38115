import { type ChainableCommander, Redis, type RedisCommander, ScanStream, type ScanStreamOptions } from 'ioredis'
import { InvalidOptionError } from '../errors.ts'
import { owner } from '../scope/ownership.ts'
import type { Scope } from '../scope/scope.ts'
import { CONNECTION_COMMANDS, connectionEffectOf } from './connection-commands.ts'
import type { ExclusiveConnection } from './exclusive-connection.ts'
import { type OptimisticOptions, runOptimistic } from './optimistic.ts'
import type { Abandoned, OptimisticTransaction } from './optimistic-transaction.ts'
import { checkScript, type ScriptDefinition } from './options.ts'
import type { ExclusiveCallOptions, RedisSession } from './session.ts'
import { callShared, refuseEffect, runShared, sendChecked, sendShared } from './shared-commands.ts'
import { sharedPipeline } from './shared-pipeline.ts'

type RefusedName =
  | ('watch' | 'unwatch' | 'multi' | 'exec' | 'discard' | 'select')
  | ('subscribe' | 'psubscribe' | 'ssubscribe' | 'unsubscribe' | 'punsubscribe' | 'sunsubscribe')
  | ('blpop' | 'brpop' | 'brpoplpush' | 'blmove' | 'blmovem' | 'blmpop' | 'bzpopmin' | 'bzpopmax' | 'bzmpop')
  | ('wait' | 'waitaof' | 'auth' | 'hello' | 'reset' | 'readonly' | 'readwrite' | 'asking' | 'himport')
  | ('quit' | 'monitor' | 'sync' | 'psync' | 'replconf')

/** Commands of ioredis less those that change their connection. */
type SharedCommands = Omit<RedisCommander<{ type: 'default' }>, RefusedName | `${RefusedName}Buffer`>

/** What `scope.redis` is: ioredis' commands on a connection that all scopes share, bound to its scope. */
export interface ScopedRedis extends SharedCommands {
  /** Commands that are sent together. */
  pipeline(commands?: unknown[][]): ChainableCommander
  /** Commands that run as one, in one round trip. */
  multi(commands?: unknown[][]): ChainableCommander
}

// biome-ignore lint/suspicious/noUnsafeDeclarationMerging: its commands are made below
export class ScopedRedis {
  readonly #session: RedisSession

  /** @internal Made by the resource. */
  constructor(session: RedisSession) {
    this.#session = session
  }

  get [owner](): Scope {
    return this.#session.scope
  }

  /** @internal */
  static sessionOf(redis: ScopedRedis): RedisSession {
    return redis.#session
  }

  /**
   * Runs `fn` with a connection that nobody else uses meanwhile. It is given back clean, or closed.
   *
   * @throws PoolExhaustedError when none becomes free in time.
   * @throws ConnectionLostError when it is lost, or none can be opened.
   */
  exclusive<Result>(fn: (connection: ExclusiveConnection) => Result | Promise<Result>): Promise<Result>
  exclusive<Result>(
    options: ExclusiveCallOptions,
    fn: (connection: ExclusiveConnection) => Result | Promise<Result>,
  ): Promise<Result>
  exclusive<Result>(
    ...args:
      | [(connection: ExclusiveConnection) => Result | Promise<Result>]
      | [ExclusiveCallOptions, (connection: ExclusiveConnection) => Result | Promise<Result>]
  ): Promise<Result> {
    const [options, fn] = args.length === 1 ? [{}, args[0]] : args
    return this.#session.exclusive(options, fn)
  }

  /**
   * Reads, then writes only if none of `keys` has changed since: `fn` reads through `tx` and returns the commands to run,
   * `tx.multi().set(…)`, or `tx.abandon()`. When a key has changed it is run again. Two round trips where `fn` sends its
   * reads together.
   *
   * @returns the replies of the commands; undefined when it was abandoned.
   * @throws OptimisticConflictError when the keys changed in every attempt; nothing was written.
   * @throws ExecCommandError when one of the commands failed.
   * @throws ConnectionLostError with `outcome: 'unknown'` when the connection was lost after EXEC was sent.
   */
  optimistic<Result extends ChainableCommander | Abandoned>(
    keys: readonly string[],
    fn: (tx: OptimisticTransaction) => Result | Promise<Result>,
  ): Promise<unknown[] | undefined>
  optimistic<Result extends ChainableCommander | Abandoned>(
    keys: readonly string[],
    options: OptimisticOptions,
    fn: (tx: OptimisticTransaction) => Result | Promise<Result>,
  ): Promise<unknown[] | undefined>
  optimistic(
    keys: readonly string[],
    ...args: [(tx: OptimisticTransaction) => unknown] | [OptimisticOptions, (tx: OptimisticTransaction) => unknown]
  ): Promise<unknown[] | undefined> {
    const [options, fn] = args.length === 1 ? [undefined, args[0]] : args
    return runOptimistic(this.#session, keys, options, fn)
  }

  /**
   * Makes a method of a Lua script, for all scopes. Better done once, in the `scripts` of the resource.
   *
   * @throws InvalidOptionError where there is something else of that name.
   */
  defineCommand(name: string, definition: ScriptDefinition): void {
    const { connections } = this.#session
    const known = connections.scripts.get(name)
    if (known?.lua === definition?.lua && known !== undefined) return
    if (known !== undefined || name in this) {
      throw new InvalidOptionError('redis.defineCommand.name', name, 'one that nothing else has')
    }
    connections.define(name, checkScript('redis.defineCommand.definition', definition))
    addScript(Object.getPrototypeOf(this) as ScopedRedis, name)
  }

  scanStream(options?: ScanStreamOptions): ScanStream {
    return this.#scan('scan', undefined, options)
  }
  scanBufferStream(options?: ScanStreamOptions): ScanStream {
    return this.#scan('scanBuffer', undefined, options)
  }
  sscanStream(key: string, options?: ScanStreamOptions): ScanStream {
    return this.#scan('sscan', key, options)
  }
  hscanStream(key: string, options?: ScanStreamOptions): ScanStream {
    return this.#scan('hscan', key, options)
  }
  zscanStream(key: string, options?: ScanStreamOptions): ScanStream {
    return this.#scan('zscan', key, options)
  }

  /** Each page is a command of the scope's, so a stream that outlives its scope fails. */
  #scan(command: string, key: string | undefined, options: ScanStreamOptions = {}): ScanStream {
    return new ScanStream({ objectMode: true, ...(key !== undefined && { key }), redis: this, command, ...options })
  }

  /** Nothing of the connection. */
  toJSON(): object {
    return { resource: this.#session.resource, scope: this.#session.scope.describe() }
  }
}

interface AnyRedis {
  [name: string]: unknown
}

const prototype = ScopedRedis.prototype as unknown as AnyRedis
const refused: ReadonlySet<string> = new Set(CONNECTION_COMMANDS)
const sometimes: ReadonlySet<string> = new Set(['client', 'script', 'xread', 'xreadgroup'])

for (const name of Redis.prototype.getBuiltinCommands()) {
  for (const method of [name, `${name}Buffer`]) {
    if (refused.has(name)) addRefusal(method, name)
    else if (sometimes.has(name)) {
      prototype[method] = function (this: ScopedRedis, ...args: unknown[]) {
        return sendChecked(ScopedRedis.sessionOf(this), method, name, args)
      }
    } else {
      prototype[method] = function (this: ScopedRedis, ...args: unknown[]) {
        return sendShared(ScopedRedis.sessionOf(this), method, name, args)
      }
    }
  }
}
for (const name of refused) {
  if (!(name in prototype)) addRefusal(name, name)
}
for (const method of ['call', 'callBuffer']) {
  prototype[method] = function (this: ScopedRedis, command: unknown, ...args: unknown[]) {
    return callShared(ScopedRedis.sessionOf(this), method, command, args)
  }
}
prototype.pipeline = function (this: ScopedRedis, commands?: unknown) {
  return sharedPipeline(ScopedRedis.sessionOf(this), 'pipeline', commands)
}
prototype.multi = function (this: ScopedRedis, first?: { pipeline?: boolean } | unknown[]) {
  if (first !== undefined && !Array.isArray(first) && first.pipeline === false) {
    refuseEffect(ScopedRedis.sessionOf(this).resource, 'multi', 'transaction')
  }
  return sharedPipeline(ScopedRedis.sessionOf(this), 'multi', first)
}

// What a client does beside commands.
for (const [method, effect] of [
  ...(['on', 'once', 'off', 'addListener', 'removeListener'] as const).map((name) => [name, 'subscription'] as const),
  ...(['connect', 'disconnect', 'end', 'duplicate', 'sendCommand'] as const).map((name) => [name, 'takeover'] as const),
] as const) {
  prototype[method] = function (this: ScopedRedis) {
    refuseEffect(ScopedRedis.sessionOf(this).resource, method, effect)
  }
}

function addRefusal(method: string, name: string): void {
  prototype[method] = function (this: ScopedRedis, ...args: unknown[]) {
    refuseEffect(ScopedRedis.sessionOf(this).resource, name, connectionEffectOf(name, args))
  }
}

/** Makes the methods of a script on a class of handles. */
export function addScript(handles: ScopedRedis, name: string): void {
  for (const method of [name, `${name}Buffer`]) {
    ;(handles as unknown as AnyRedis)[method] = function (this: ScopedRedis, ...args: unknown[]) {
      return runShared(ScopedRedis.sessionOf(this), name, method, args)
    }
  }
}
