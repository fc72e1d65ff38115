import type { Socket } from 'node:net'
import { drizzle } from 'drizzle-orm/postgres-js'
import createClient, { type Options, type PostgresType, type Sql } from 'postgres'
import { ConnectionLostError } from '../errors.ts'
import { publish } from '../events.ts'
import { ARRAY_TYPES, addArrayTypes } from './array-types.ts'
import { type Backend, requestCancel } from './cancel.ts'
import { connectFailure, placeOf } from './connect-failure.ts'
import type { PostgresConfig, Target } from './options.ts'
import { passwordFrom } from './password.ts'
import { openSocket, SocketTimeoutError } from './socket.ts'
import type { KnownText } from './statement-text.ts'
import { UnsendableValues } from './unsendable.ts'

// DISCARD ALL less what it does to prepared statements: the client remembers those.
const RESET =
  'close all; set session authorization default; reset all; unlisten *; select pg_advisory_unlock_all(); ' +
  'discard plans; discard temp; discard sequences'

/**
 * One physical connection: a postgres.js client that has exactly one socket in its life. When that is gone the
 * connection is lost for good; a client that reconnected would run the rest of a transaction in autocommit.
 */
export class Connection {
  readonly unsendable = new UnsendableValues()
  readonly openedAt = performance.now()
  /** When it was last put to rest. */
  idleSince = this.openedAt
  /** Told once, when it is lost or closed. */
  onGone: (() => void) | undefined
  /** The stream that is open on it: it ends with the connection, also where the client would forget it. */
  occupant: { destroy(error: Error): unknown } | undefined

  // Out of sight: its options hold the password.
  readonly #sql: Sql
  readonly #resource: string
  readonly #config: PostgresConfig
  readonly #socket: Socket
  /** The one server it is connected to. */
  readonly #server: Target
  readonly #prepared = new Set<string>()
  #backend: Backend | undefined
  #gone: { readonly reason: string } | undefined
  #whenGone: Set<() => void> | undefined

  private constructor(
    resource: string,
    config: PostgresConfig,
    { socket, server }: { socket: Socket; server: Target },
    password: string | undefined,
  ) {
    this.#resource = resource
    this.#config = config
    this.#socket = socket
    this.#server = server
    let handedOut = false
    this.#sql = createClient(config.url, {
      ...(password !== undefined && { password }),
      types: config.types,
      connection: config.settings,
      host: config.target.endpoints[0]?.host,
      port: config.target.endpoints[0]?.port,
      ssl: false, // the socket below is encrypted already, where it has to be
      max: 1,
      idle_timeout: null,
      max_lifetime: null,
      connect_timeout: null,
      fetch_types: false, // see addArrayTypes
      backoff: () => 0,
      onnotice: () => {},
      onclose: () => this.#wentAway('the server closed the connection'),
      socket: () => {
        if (handedOut) throw this.lostError()
        handedOut = true
        return socket
      },
    } as unknown as Options<Record<string, PostgresType>>)
    drizzle(this.sql) // makes the client read and write dates as drizzle expects them
    writeRawValues(this.sql)
  }

  /**
   * Opens a connection and waits until it has run a statement.
   *
   * @throws ConnectionLostError that says why not.
   */
  static async open(
    resource: string,
    config: PostgresConfig,
    timeoutMs = config.connectTimeoutMs,
  ): Promise<Connection> {
    const startedAt = performance.now()
    const left = () => Math.max(1, timeoutMs - (performance.now() - startedAt))
    let connection: Connection | undefined
    try {
      const password = await within(passwordFrom(config.password), left())
      const opened = await openSocket(config.target, left())
      connection = new Connection(resource, config, opened, password)
      const probe = connection.sql.unsafe(ARRAY_TYPES)
      const types = await within(Promise.race([probe, closing(opened.socket)]), left())
      addArrayTypes(connection.sql, types as never, config.arrayTypeOf)
      connection.unsendable.guard(connection.sql)
      connection.#backend = (probe as unknown as { state: Backend }).state
    } catch (error) {
      connection?.discard('it could not be opened')
      throw connectFailure(resource, config.target, error)
    }
    const { backend } = connection
    publish('reqscope:connection:opened', () => ({ resource, backend, tookMs: performance.now() - startedAt }))
    return connection
  }

  get sql(): Sql {
    return this.#sql
  }

  /** The server's process id. */
  get backend(): number | undefined {
    return this.#backend?.pid
  }

  /** Calls `listener` when it is lost or discarded, until what it returns is called. */
  whenGone(listener: () => void): () => void {
    if (this.isGone) listener()
    this.#whenGone ??= new Set()
    this.#whenGone.add(listener)
    return () => void this.#whenGone?.delete(listener)
  }

  get isGone(): boolean {
    return this.#gone !== undefined
  }

  /** @param cause the error of the statement that found out, if any. */
  lostError(facts: { cause?: unknown; outcome?: 'unknown'; idleInTransaction?: boolean } = {}): ConnectionLostError {
    const { target, idleInTransactionTimeoutMs } = this.#config
    const hint =
      facts.idleInTransaction && idleInTransactionTimeoutMs > 0
        ? ` It had been idle in a transaction; the server ends that after ${idleInTransactionTimeoutMs} ms (idleInTransactionTimeoutMs).`
        : ''
    const outcome =
      facts.outcome === 'unknown' ? ' That happened during COMMIT: whether it took effect is unknown.' : ''
    return new ConnectionLostError({
      resource: this.#resource,
      reason: 'lost',
      outcome: facts.outcome,
      cause: facts.cause,
      message: `A connection to Postgres at ${placeOf(target)} (${this.#resource}) was lost: ${this.#gone?.reason ?? 'it failed'}.${hint}${outcome}`,
    })
  }

  /**
   * Whether a statement is to be prepared here. Only what the pool has seen before is, and only so many: a text that
   * comes once, such as an IN list of some length, would never be used again and stay with the server.
   */
  admits(text: string, known: KnownText, parameters: readonly unknown[]): boolean {
    if (!this.#config.prepare) return false
    const signature = signatureOf(text, parameters)
    if (this.#prepared.has(signature)) return true
    if (known.seen < 2 || this.#prepared.size >= this.#config.maxPrepared) return false
    this.#prepared.add(signature)
    return true
  }

  /** Whether it still answers, in that many milliseconds. */
  async answers(timeoutMs = this.#config.connectTimeoutMs): Promise<boolean> {
    try {
      await within(this.sql.unsafe('select 1'), timeoutMs)
      return !this.isGone
    } catch (error) {
      // In a transaction that has failed this is an answer too.
      return (error as { code?: unknown }).code === '25P02' && !this.isGone
    }
  }

  /** Takes back all session state; false when that failed. */
  async reset(): Promise<boolean> {
    try {
      await within(this.sql.unsafe(RESET), this.#config.connectTimeoutMs)
      return !this.isGone
    } catch {
      return false
    }
  }

  /** See {@link requestCancel}; the caller makes sure that nothing else can be hit. */
  async cancel(): Promise<void> {
    if (this.#backend === undefined || this.isGone) return
    await requestCancel(this.#server, this.#backend, Math.min(5_000, this.#config.connectTimeoutMs))
  }

  /** Closes it at once; what it runs fails. */
  discard(reason: string): void {
    this.#socket.destroy()
    this.#wentAway(reason)
  }

  /** Closes it in good order; it must be idle. */
  async close(reason: string): Promise<void> {
    const ended = this.sql.end({ timeout: 1 })
    this.#wentAway(reason)
    await ended
  }

  #wentAway(reason: string): void {
    if (this.#gone !== undefined) return
    this.#gone = { reason }
    void this.sql.end({ timeout: 0 }) // rejects what the client still has in its queues
    publish('reqscope:connection:closed', () => ({ resource: this.#resource, backend: this.backend, reason }))
    for (const listener of this.#whenGone ?? []) listener()
    this.occupant?.destroy(this.lostError())
    this.onGone?.()
  }
}

const DATES = [1082, 1083, 1114, 1184]
const JSONS = [114, 3802]
/** Of dates and numerics. */
const ARRAYS = [1115, 1182, 1185, 1231]

/** Drizzle hands over dates and JSON as text, and leaves its client unable to write them any other way; raw statements do. */
function writeRawValues(sql: Sql): void {
  const { serializers } = sql.options as unknown as { serializers: Record<number, (value: unknown) => unknown> }
  for (const type of DATES) serializers[type] = (value) => (value instanceof Date ? value.toISOString() : value)
  for (const type of ARRAYS) delete serializers[type] // addArrayTypes knows better
  for (const type of JSONS) serializers[type] = (value) => (typeof value === 'string' ? value : JSON.stringify(value))
}

/** The same text with parameters of other inferred types is another statement to the server. */
function signatureOf(text: string, parameters: readonly unknown[]): string {
  let suffix = ''
  for (let index = 0; index < parameters.length; index++) {
    const type = inferredType(parameters[index])
    if (type !== '') suffix += `${index}${type}`
  }
  return suffix === '' ? text : `${text}\n${suffix}`
}

/** Tells apart what the client infers different types from: a list by its first item, a typed value by its type. */
function inferredType(parameter: unknown): string {
  const type = typeof parameter
  if (type === 'string' || type === 'number' || parameter === null) return ''
  if (type !== 'object') return type
  if (Array.isArray(parameter)) return inferredType(parameter[0])
  const { constructor: made, type: oid } = parameter as { constructor?: { name: string }; type?: unknown }
  return made?.name === 'Parameter' ? `typed ${oid}` : `${made?.name}`
}

/** Rejects when the socket has closed: before the client listens to it, nobody else would know. */
function closing(socket: Socket): Promise<never> {
  return new Promise((_resolve, reject) => {
    if (socket.destroyed) reject(new Error('the server closed the connection'))
    socket.once('error', reject)
    socket.once('close', () => reject(new Error('the server closed the connection')))
  })
}

async function within<Result>(work: PromiseLike<Result>, timeoutMs: number): Promise<Result> {
  let timer: NodeJS.Timeout | undefined
  const timeout = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new SocketTimeoutError(`no answer within ${timeoutMs} ms`)), timeoutMs)
  })
  try {
    return await Promise.race([work, timeout])
  } finally {
    clearTimeout(timer)
  }
}
