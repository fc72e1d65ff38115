import type { ChainableCommander, Command, RedisCommander } from 'ioredis'
import { Redis } from 'ioredis'
import { SharedConnectionError } from '../errors.ts'
import { currentContext, runInContext } from '../scope/current.ts'
import { owner } from '../scope/ownership.ts'
import type { Scope } from '../scope/scope.ts'
import { connectionEffectOf } from './connection-commands.ts'
import type { ExclusiveLease } from './exclusive-lease.ts'
import { type Pipeline, scopedPipeline, withCallback } from './scoped-pipeline.ts'

/** What an exclusive connection asks of the session it belongs to. */
interface Session {
  readonly scope: Scope
  readonly resource: string
  assertUsable(): void
}

type Methods = Readonly<Record<string, (...args: unknown[]) => unknown>>
type Listener = (...args: never[]) => void
/** Ends the connection: the runtime does that. */
const TAKEN_OVER = ['quit', 'monitor', 'sync', 'psync', 'replconf'] as const
type Takeover = (typeof TAKEN_OVER)[number]
type Commands = Omit<RedisCommander<{ type: 'default' }>, Takeover | 'exec'>

/** A connection that nobody else uses while its function runs: for WATCH, subscriptions, blocking commands and the like. */
export interface ExclusiveConnection extends Commands {
  exec(): Promise<unknown[] | null>
  multi(options: { pipeline: false }): Promise<'OK'>
  multi(options?: { pipeline: true }): ChainableCommander
  multi(commands?: unknown[][]): ChainableCommander
  pipeline(commands?: unknown[][]): ChainableCommander
}

// biome-ignore lint/suspicious/noUnsafeDeclarationMerging: its commands are made below
export class ExclusiveConnection {
  readonly #lease: ExclusiveLease
  readonly #session: Session
  #listeners: Map<Listener, [string, Listener]> | undefined

  /** @internal */
  constructor(lease: ExclusiveLease, session: Session, scripts: Iterable<string>) {
    this.#lease = lease
    this.#session = session
    for (const name of scripts) {
      for (const method of [name, `${name}Buffer`]) {
        const value = (...args: unknown[]) => ExclusiveConnection.send(this, method, 'evalsha', args)
        Object.defineProperty(this, method, { value })
      }
    }
  }

  get [owner](): Scope {
    return this.#session.scope
  }

  /** The server's number for the connection, as in CLIENT LIST. */
  get id(): number | undefined {
    return this.#lease.client.backend
  }

  on(event: 'message', listener: (channel: string, message: string) => void): this
  on(event: 'messageBuffer', listener: (channel: Buffer, message: Buffer) => void): this
  on(event: 'pmessage', listener: (pattern: string, channel: string, message: string) => void): this
  on(event: 'smessage', listener: (channel: string, message: string) => void): this
  on(event: string, listener: Listener): this {
    return this.#listen('on', event, listener)
  }

  once(event: 'message', listener: (channel: string, message: string) => void): this
  once(event: 'pmessage', listener: (pattern: string, channel: string, message: string) => void): this
  once(event: 'smessage', listener: (channel: string, message: string) => void): this
  once(event: string, listener: Listener): this {
    return this.#listen('once', event, listener)
  }

  off(event: 'message' | 'messageBuffer' | 'pmessage' | 'smessage', listener: Listener): this {
    const bound = this.#listeners?.get(listener)
    if (bound !== undefined) this.#lease.client.off(event, bound[1] as never)
    this.#listeners?.delete(listener)
    return this
  }

  #listen(method: 'on' | 'once', event: string, listener: Listener): this {
    this.#assertUsable(`A listener for '${event}'`)
    const context = currentContext()
    // Without it, it would run in the context in which the connection was opened.
    const bound: Listener = (...args) =>
      context === undefined ? listener(...args) : runInContext(context, () => listener(...args))
    this.#listeners ??= new Map()
    this.#listeners.set(listener, [event, bound])
    this.#lease.client[method](event, bound as never)
    return this
  }

  #assertUsable(operation: string): void {
    this.#lease.assertHeld(operation)
    this.#session.assertUsable()
  }

  /** @internal */
  static send(connection: ExclusiveConnection, method: string, name: string, args: unknown[]): Promise<unknown> {
    const callback = typeof args.at(-1) === 'function' ? args.pop() : undefined
    return withCallback(connection.#send(method, name, args), callback)
  }

  #send(method: string, name: string, args: unknown[]): Promise<unknown> {
    try {
      this.#assertUsable(name.toUpperCase())
      const flat = args.flat()
      const effect = connectionEffectOf(name, method.startsWith('call') ? flat.slice(1) : flat)
      if (effect === 'takeover') throw this.#takeover(name)
      const { client } = this.#lease
      const sent = (client as unknown as Methods)[method]?.(...args) as Promise<unknown>
      return this.#lease.reply(sent, {
        bounded: effect !== 'blocking',
        ...(name === 'exec' && { outcome: 'unknown' }),
      })
    } catch (error) {
      return Promise.reject(error)
    }
  }

  #takeover(name: string): SharedConnectionError {
    return new SharedConnectionError({
      resource: this.#session.resource,
      operation: name.toUpperCase(),
      instead: 'an exclusive connection is lent, and the runtime closes it. Return from the function instead.',
    })
  }

  /** @internal */
  static pipeline(connection: ExclusiveConnection, kind: 'pipeline' | 'multi', commands: unknown): Pipeline {
    return connection.#pipeline(kind, commands)
  }

  #pipeline(kind: 'pipeline' | 'multi', commands: unknown): Pipeline {
    this.#assertUsable(kind)
    let blocks = false
    const allows = (command: Command) => {
      const effect = connectionEffectOf(command.name.toLowerCase(), command.args)
      if (effect === 'takeover') throw this.#takeover(command.name)
      blocks ||= effect === 'blocking'
      return true
    }
    const asked = {
      scope: this.#session.scope,
      resource: this.#session.resource,
      execute: async (run: () => Promise<unknown>) => {
        this.#assertUsable(kind)
        return this.#lease.reply(run(), { bounded: !blocks, ...(kind === 'multi' && { outcome: 'unknown' }) })
      },
    }
    const list = Array.isArray(commands) ? commands : undefined
    return scopedPipeline(this.#lease.client, kind, asked, list, allows)
  }
}

interface AnyConnection {
  [name: string]: unknown
}

const prototype = ExclusiveConnection.prototype as unknown as AnyConnection
for (const name of Redis.prototype.getBuiltinCommands()) {
  for (const method of [name, `${name}Buffer`]) {
    prototype[method] = function (this: ExclusiveConnection, ...args: unknown[]) {
      return ExclusiveConnection.send(this, method, name, args)
    }
  }
}
for (const method of ['call', 'callBuffer']) {
  prototype[method] = function (this: ExclusiveConnection, name: string, ...args: unknown[]) {
    const callback = typeof args.at(-1) === 'function' ? args.pop() : undefined
    const flat = args.flat()
    const sent = ExclusiveConnection.send(this, method, String(name).toLowerCase(), [String(name), ...flat])
    return withCallback(sent, callback)
  }
}
prototype.pipeline = function (this: ExclusiveConnection, commands?: unknown) {
  return ExclusiveConnection.pipeline(this, 'pipeline', commands)
}
prototype.multi = function (this: ExclusiveConnection, first?: { pipeline?: boolean } | unknown[], ...rest: unknown[]) {
  if (first !== undefined && !Array.isArray(first) && first.pipeline === false) {
    return ExclusiveConnection.send(this, 'multi', 'multi', [first, ...rest])
  }
  return ExclusiveConnection.pipeline(this, 'multi', first)
}
