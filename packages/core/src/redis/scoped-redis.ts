import {
  type ChainableCommander,
  type Command,
  Redis,
  type RedisCommander,
  ScanStream,
  type ScanStreamOptions,
} from 'ioredis'
import { InvalidOptionError, SharedConnectionError } from '../errors.ts'
import { CONNECTION_COMMANDS, type ConnectionEffect, connectionEffectOf, insteadOf } from './connection-commands.ts'
import type { ExclusiveConnection } from './exclusive-connection.ts'
import { sharedSlot } from './key-slot.ts'
import { type OptimisticOptions, runOptimistic } from './optimistic.ts'
import type { Abandoned, OptimisticTransaction } from './optimistic-transaction.ts'
import { checkScript, type ScriptDefinition } from './options.ts'
import { allowsShared, type Pipeline, scopedPipeline, withCallback } from './scoped-pipeline.ts'
import type { ExclusiveCallOptions, RedisSession } from './session.ts'

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

  /** @internal */
  static send(redis: ScopedRedis, method: string, name: string, args: unknown[]): Promise<unknown> {
    const callback = typeof args.at(-1) === 'function' ? args.pop() : undefined
    const session = redis.#session
    if (session.connections.isCluster && RUNS_SCRIPT.has(name)) {
      const [, count, ...rest] = args.flat() as string[]
      checkSlots(session, name, rest.slice(0, Number(count)))
    }
    const sent = session.send(method, args)
    return callback === undefined ? sent : withCallback(sent, callback)
  }

  /** @internal For commands that may change the connection, as their arguments say. */
  static sendChecked(redis: ScopedRedis, method: string, name: string, args: unknown[]): Promise<unknown> {
    refuseEffect(redis.#session.resource, name, connectionEffectOf(name, args.flat()))
    return ScopedRedis.send(redis, method, name, args)
  }

  /** @internal */
  static call(redis: ScopedRedis, method: string, command: unknown, args: unknown[]): Promise<unknown> {
    const callback = typeof args.at(-1) === 'function' ? args.pop() : undefined
    const flat = args.flat()
    const name = String(command).toLowerCase()
    const session = redis.#session
    refuseEffect(session.resource, name, connectionEffectOf(name, flat))
    const sent = session.send(method, [String(command), ...flat])
    return callback === undefined ? sent : withCallback(sent, callback)
  }

  /** @internal */
  static script(redis: ScopedRedis, name: string, method: string, args: unknown[]): Promise<unknown> {
    const session = redis.#session
    if (session.connections.isCluster) {
      const flat = args.flat()
      const fixed = session.connections.scripts.get(name)?.numberOfKeys
      const count = fixed ?? Number(flat[0])
      checkSlots(session, name, flat.slice(fixed === undefined ? 1 : 0).slice(0, count) as string[])
    }
    return ScopedRedis.send(redis, method, name, args)
  }

  /** @internal */
  static pipeline(redis: ScopedRedis, kind: 'pipeline' | 'multi', commands: unknown): Pipeline {
    const session = redis.#session
    const { shared, isCluster } = session.connections
    session.assertUsable()
    const keys: string[] = []
    const owner = {
      resource: session.resource,
      async execute(run: () => Promise<unknown>) {
        session.assertUsable()
        if (session.armed !== undefined) await session.armed
        let sent = false
        try {
          const replies = await shared.sending(() => {
            sent = true
            return run()
          })
          return kind === 'multi' ? replies : typedFailures(session, replies as Replies)
        } catch (error) {
          throw kind === 'multi' && sent ? shared.failure(error, 'unknown') : error
        }
      },
      ...(isCluster &&
        kind === 'multi' && {
          check(command: Command) {
            keys.push(...(command.getKeys() as string[]))
            sharedSlot(`${session.resource}.multi.keys`, keys, '')
          },
        }),
    }
    const list = Array.isArray(commands) ? commands : undefined
    return scopedPipeline(shared.client as Redis, kind, owner, list, allowsShared)
  }
}

type Replies = [error: Error | null, reply: unknown][]

function typedFailures(session: RedisSession, replies: Replies): Replies {
  for (const each of replies) {
    if (each[0] !== null) each[0] = session.connections.shared.failure(each[0]) as Error
  }
  return replies
}

const RUNS_SCRIPT: ReadonlySet<string> = new Set(['eval', 'evalsha', 'eval_ro', 'evalsha_ro', 'fcall', 'fcall_ro'])

function checkSlots(session: RedisSession, name: string, keys: readonly string[]): void {
  sharedSlot(`${session.resource}.${name}.keys`, keys, session.connections.keyPrefix)
}

function refuseEffect(resource: string, name: string, effect: ConnectionEffect | undefined): void {
  if (effect === undefined) return
  throw new SharedConnectionError({ resource, operation: name.toUpperCase(), instead: insteadOf(effect) })
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
        return ScopedRedis.sendChecked(this, method, name, args)
      }
    } else {
      prototype[method] = function (this: ScopedRedis, ...args: unknown[]) {
        return ScopedRedis.send(this, method, name, args)
      }
    }
  }
}
for (const name of refused) {
  if (!(name in prototype)) addRefusal(name, name)
}
for (const method of ['call', 'callBuffer']) {
  prototype[method] = function (this: ScopedRedis, command: unknown, ...args: unknown[]) {
    return ScopedRedis.call(this, method, command, args)
  }
}
prototype.pipeline = function (this: ScopedRedis, commands?: unknown) {
  return ScopedRedis.pipeline(this, 'pipeline', commands)
}
prototype.multi = function (this: ScopedRedis, first?: { pipeline?: boolean } | unknown[]) {
  if (first !== undefined && !Array.isArray(first) && first.pipeline === false) {
    refuseEffect(ScopedRedis.sessionOf(this).resource, 'multi', 'transaction')
  }
  return ScopedRedis.pipeline(this, 'multi', first)
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
      return ScopedRedis.script(this, name, method, args)
    }
  }
}
