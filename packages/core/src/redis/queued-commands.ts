import { type Command, Redis } from 'ioredis'
import { SharedConnectionError } from '../errors.ts'
import { owner } from '../scope/ownership.ts'
import type { Scope } from '../scope/scope.ts'
import { connectionEffectOf } from './connection-commands.ts'
import type { ExclusiveClient } from './exclusive-client.ts'
import { refuse } from './scoped-pipeline.ts'
import type { RedisSession } from './session.ts'

/** What `tx.multi()` returns: the commands to run as one, if nothing that was watched has changed. */
export class QueuedCommands {
  readonly commands: Command[] = []
  // What ioredis' methods, borrowed below, ask of whom they make a command for.
  readonly isPipeline = true
  readonly #client: ExclusiveClient
  readonly #session: RedisSession
  readonly #check: ((command: Command) => void) | undefined
  #callbacks: { readonly index: number; readonly callback: (error: null, reply: unknown) => void }[] | undefined

  /** @param check throws for a command whose keys may not be used together with those that are watched. */
  constructor(client: ExclusiveClient, session: RedisSession, check: ((command: Command) => void) | undefined) {
    this.#client = client
    this.#session = session
    this.#check = check
    // Scripts are methods of the client alone.
    const { scriptsSet } = client as unknown as { scriptsSet: object }
    for (const name in scriptsSet) {
      for (const method of [name, `${name}Buffer`]) {
        const make = (client as unknown as AnyMethods)[method] as (...args: unknown[]) => unknown
        Object.defineProperty(this, method, { value: (...args: unknown[]) => this.#add(make, args) })
      }
    }
  }

  get [owner](): Scope {
    return this.#session.scope
  }

  /** Of its client, a password included: not for whoever prints this. */
  get options(): Redis['options'] {
    return this.#client.options
  }

  get length(): number {
    return this.commands.length
  }

  addBatch(commands: readonly unknown[][]): this {
    for (const [name, ...args] of commands) {
      const method = (this as unknown as AnyMethods)[String(name)]
      if (method === undefined) this.#add(Redis.prototype.call as never, [name, ...args])
      else method.apply(this, args)
    }
    return this
  }

  /** @internal */
  static add(queued: QueuedCommands, make: (...args: unknown[]) => unknown, args: unknown[]): QueuedCommands {
    return queued.#add(make, args)
  }

  #add(make: (...args: unknown[]) => unknown, args: unknown[]): this {
    if (typeof args.at(-1) === 'function') {
      this.#callbacks ??= []
      this.#callbacks.push({ index: this.length, callback: args.pop() as () => void })
    }
    make.apply(this, args)
    return this
  }

  /** @internal Called by ioredis' methods. */
  sendCommand(command: Command): this {
    if (connectionEffectOf(command.name.toLowerCase(), command.args) !== undefined)
      refuse(this.#session.resource, command)
    this.#check?.(command)
    this.commands.push(command)
    return this
  }

  /** Refused: `optimistic` does it. */
  exec(): Promise<never> {
    return Promise.reject(
      new SharedConnectionError({
        resource: this.#session.resource,
        operation: 'exec() of tx.multi()',
        instead: 'return the commands from the function of optimistic, which executes them.',
      }),
    )
  }

  execBuffer(): Promise<never> {
    return this.exec()
  }

  /** Tells callbacks their replies, once all of it is done. */
  tell(replies: readonly unknown[]): void {
    for (const { index, callback } of this.#callbacks ?? []) process.nextTick(callback, null, replies[index])
  }
}

type AnyMethods = Record<string, (...args: unknown[]) => unknown>

const prototype = QueuedCommands.prototype as unknown as AnyMethods
const client = Redis.prototype as unknown as AnyMethods
for (const name of [...Redis.prototype.getBuiltinCommands(), 'call']) {
  for (const method of [name, `${name}Buffer`]) {
    if (method in prototype) continue
    const make = client[method]
    if (make === undefined) continue
    prototype[method] =
      connectionEffectOf(name, []) === undefined
        ? function (this: QueuedCommands, ...args: unknown[]) {
            return QueuedCommands.add(this, make, args)
          }
        : function (this: QueuedCommands, ...args: unknown[]) {
            return this.sendCommand({ name, args: args.flat() } as Command)
          }
  }
}
