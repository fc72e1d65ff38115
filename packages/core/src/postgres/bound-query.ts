import { AsyncResource } from 'node:async_hooks'
import type { Readable, Writable } from 'node:stream'
import type { PendingQuery, Row, Sql } from 'postgres'
import { InvalidOptionError } from '../errors.ts'
import { owner } from '../scope/ownership.ts'
import type { Scope } from '../scope/scope.ts'
import type { Connection } from './connection.ts'
import { freeAfter, isStream, whenStreaming } from './copy-stream.ts'
import { Fragment, fragmentText, unwrap } from './fragment.ts'
import type { Lease } from './lease.ts'
import type { Level } from './level.ts'
import { withoutGap } from './row-gap.ts'
import type { Session } from './session.ts'
import { buildQuery, known, refusedAmongSeveral, type Statement, type StatementSource, textOf } from './statement.ts'
import type { KnownText } from './statement-text.ts'

/** The batch callback's way to say "enough", as postgres.js has it. */
export const CLOSE: object = {}

type Batch = Row[] & { readonly count?: number }

/**
 * A statement of a scope, not sent before it is awaited: what postgres.js calls a pending query, with the same methods.
 * Used as a value in another tagged statement it is a fragment of that one.
 */
export class BoundQuery extends Fragment implements PromiseLike<unknown>, Statement<unknown> {
  readonly #session: Session
  readonly #level: Level | undefined
  #source: StatementSource
  #shape: 'rows' | 'values' | 'raw' | 'description' = 'rows'
  #onRow: ((row: Row, result: unknown) => void) | undefined
  #known: KnownText | undefined
  #running: Promise<unknown> | undefined
  #lease: Lease | undefined
  #state: 'waiting' | 'sent' | 'settled' = 'waiting'
  #cancelled = false

  constructor(session: Session, level: Level | undefined, source: StatementSource) {
    super()
    this.#session = session
    this.#level = level
    this.#source = source
  }

  get [owner](): Scope {
    return this.#session.scope
  }

  // biome-ignore lint/suspicious/noThenProperty: a thenable, as in postgres.js: it is sent when it is awaited
  then<A = unknown, B = never>(
    onFulfilled?: ((value: unknown) => A | PromiseLike<A>) | null,
    onRejected?: ((reason: unknown) => B | PromiseLike<B>) | null,
  ): Promise<A | B> {
    return this.run().then(onFulfilled, onRejected)
  }

  catch<B>(onRejected: (reason: unknown) => B | PromiseLike<B>): Promise<unknown> {
    return this.run().catch(onRejected)
  }

  finally(onFinally: () => void): Promise<unknown> {
    return this.run().finally(onFinally)
  }

  /** Sends it now. */
  execute(): this {
    this.run().catch(() => {}) // whoever awaits it is told
    return this
  }

  /** Rows as arrays of values. */
  values(): this {
    this.#shape = 'values'
    return this
  }

  /** Rows as arrays of buffers. */
  raw(): this {
    this.#shape = 'raw'
    return this
  }

  /** Columns and parameter types instead of rows. */
  describe(): this {
    this.#shape = 'description'
    return this
  }

  /** The simple protocol: several statements in one text, no parameters. */
  simple(): this {
    const source = this.#source
    if (source.tag === 'text') this.#source = { ...source, simple: true }
    else if (source.holes.length === 0) this.#source = { tag: 'text', text: this.text, parameters: [], simple: true }
    return this
  }

  /** Calls `fn` for each row as it comes, in the context of whoever called `forEach`. */
  forEach(fn: (row: Row, result: unknown) => void): Promise<unknown> {
    this.#onRow = AsyncResource.bind(fn)
    return this.run()
  }

  /** Cancels this statement, and no other one. */
  async cancel(): Promise<void> {
    this.#cancelled = true
    if (this.#state === 'sent') await this.#lease?.cancelStatement(() => this.#state === 'sent')
  }

  /**
   * Reads so many rows at a time; outside of a transaction over a connection of its own. With a function, calls it for
   * each batch and waits for what it returns, in the context of whoever called; `sql.CLOSE` ends it early.
   */
  cursor(rows?: number): AsyncIterable<Batch>
  cursor(fn: (batch: Batch) => unknown): Promise<void>
  cursor(rows: number, fn: (batch: Batch) => unknown): Promise<void>
  cursor(first: number | ((batch: Batch) => unknown) = 1, second?: (batch: Batch) => unknown): unknown {
    const rows = typeof first === 'number' ? first : 1
    const fn = typeof first === 'function' ? first : second
    if (fn === undefined) return { [Symbol.asyncIterator]: () => this.#batches(rows) }
    return this.#eachBatch(rows, fn)
  }

  /** A COPY … TO STDOUT as a stream. */
  async readable(): Promise<Readable> {
    return (await this.#openStream((query) => query.readable())) as Readable
  }

  /** A COPY … FROM STDIN as a stream. */
  async writable(): Promise<Writable> {
    return (await this.#openStream((query) => query.writable())) as Writable
  }

  // As a lease runs it.

  get text(): string {
    return textOf(this.#source, fragmentText)
  }

  get isOurs(): boolean {
    return this.#source.tag === 'text' && this.#source.isOurs === true
  }

  get setsStatementTimeout(): boolean {
    return this.#known?.setsStatementTimeout ?? false
  }

  get effect(): KnownText['effect'] {
    return this.#known?.effect ?? 'none'
  }

  send(connection: Connection, lease: Lease): PromiseLike<unknown> {
    if (this.#cancelled) return Promise.reject(userCancelled())
    this.#state = 'sent'
    this.#lease = lease
    const query = this.#build(connection)
    if (this.#shape === 'description') return described(query)
    this.#shaped(query)
    const answer = this.#onRow === undefined ? query : (query.forEach(this.#onRow) as PromiseLike<unknown>)
    if (!this.#known?.mayControl) return answer
    return answer.then(undefined, (error: unknown) => {
      throw refusedAmongSeveral(error, this.#known)
    })
  }

  settled(): void {
    this.#state = 'settled'
  }

  /** As a fragment of another statement. */
  asFragment(sql: Sql): unknown {
    const source = this.#source
    if (source.tag === 'text') return sql.unsafe(source.text, source.parameters as never[])
    return sql(source.strings, ...(source.holes.map((hole) => unwrap(hole, sql)) as never[]))
  }

  /** Sends it, the first time. */
  run(): Promise<unknown> {
    if (this.#running !== undefined) return this.#running
    try {
      this.#read()
      this.#running = this.#session.execute(this, this.#level)
    } catch (error) {
      this.#running = Promise.reject(error)
    }
    return this.#running
  }

  /** @throws SharedConnectionError for transaction control. */
  #read(): KnownText {
    this.#known ??= known(this.text, this.#session.pool.texts)
    return this.#known
  }

  #build(connection: Connection): PendingQuery<Row[]> {
    return buildQuery(this.#source, this.text, this.#read(), connection, unwrap)
  }

  #shaped(query: PendingQuery<Row[]>): PendingQuery<Row[]> {
    if (this.#shape === 'values') query.values()
    else if (this.#shape === 'raw') query.raw()
    return query
  }

  async *#batches(rows: number): AsyncGenerator<Batch, void, void> {
    this.#read()
    const { lease, failed, free } = await this.#session.occupy(this.#level)
    let clean = false
    try {
      const batches = this.#shaped(this.#build(lease.connection)).cursor(rows)[Symbol.asyncIterator]()
      lease.noteEffect(this.effect)
      try {
        for (;;) {
          this.#session.assertUsable()
          const next = await lease.fetch(this.text, () => batches.next())
          if (next.done) {
            clean = true
            return
          }
          yield withoutGap(next.value as Batch)
        }
      } catch (error) {
        failed(error)
        throw error
      } finally {
        // A lost connection must not be asked for more: its client would write to a socket that is gone.
        await lease.whenReady()
        if (!clean && !lease.connection.isGone) {
          await batches.return?.()
          clean = await lease.connection.answers()
        }
      }
    } finally {
      await free(clean)
    }
  }

  async #eachBatch(rows: number, fn: (batch: Batch) => unknown): Promise<void> {
    const bound = AsyncResource.bind(fn)
    for await (const batch of { [Symbol.asyncIterator]: () => this.#batches(rows) }) {
      if ((await bound(batch)) === CLOSE) return
    }
  }

  async #openStream(open: (query: PendingQuery<Row[]>) => PromiseLike<unknown>): Promise<Readable | Writable> {
    this.#read()
    const occupied = await this.#session.occupy(this.#level)
    const { lease, failed, free } = occupied
    try {
      const query = this.#build(lease.connection)
      whenStreaming(query, (stream) => freeAfter(stream, occupied))
      const stream = await lease.fetch(this.text, () => open(query))
      lease.noteEffect(this.effect)
      if (!isStream(stream))
        throw new InvalidOptionError('statement', this.text, 'a COPY, to be read or written as a stream')
      return stream
    } catch (error) {
      failed(error)
      await free(await lease.connection.answers())
      throw error
    }
  }
}

/** The client would prepare it under a new name each time, and never let go of it. */
function described(query: PendingQuery<Row[]>): PromiseLike<unknown> {
  const description = query.describe()
  const { options } = query as unknown as { options: { prepare?: boolean } }
  options.prepare = false
  return description
}

function userCancelled(): Error {
  return Object.assign(new Error('canceling statement due to user request'), { code: '57014' })
}
