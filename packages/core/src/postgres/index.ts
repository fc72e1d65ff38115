import type { Sql } from 'postgres'
import { InvalidOptionError } from '../errors.ts'
import type { Ledger } from '../scope/ledger.ts'
import type { TransactionBond } from '../scope/locker.ts'
import type { Logger } from '../scope/logger.ts'
import type {
  ManualTransaction,
  Resource,
  ResourceHealth,
  TransactionalResource,
  TransactionOptions,
} from '../scope/resource.ts'
import type { Scope } from '../scope/scope.ts'
import {
  type AdvisoryAccess,
  advisoryAccess,
  type PostgresAccess,
  type PostgresTarget,
  postgresAccess,
} from './access.ts'
import { AdvisoryLocks } from './advisory-locks.ts'
import { shareArrayTypes } from './array-types.ts'
import { BoundSource } from './bound-client.ts'
import { placeOf } from './connect-failure.ts'
import { type BoundDatabase, type BoundPostgresJsDatabase, DatabaseTemplate, sessionOf } from './database.ts'
import { IdleTransactionWatch } from './idle-transaction-watch.ts'
import { checkPostgresOptions, type PostgresConfig, type PostgresOptions, passwordIn } from './options.ts'
import { Pool } from './pool.ts'
import { Session } from './session.ts'
import { openSocket } from './socket.ts'
import { checkTransactionOptions } from './transaction-options.ts'

export type { BoundDatabase, PostgresOptions, Sql }

/**
 * Postgres, through drizzle and postgres.js: `scope.db` is a drizzle database bound to its scope. A connection is leased
 * with the first statement, given to others while the handler waits for something else, and taken back when the scope
 * ends.
 *
 * @throws InvalidOptionError naming the option that is wrong.
 */
export function postgres<Schema extends Record<string, unknown> = Record<string, never>>(
  options: PostgresOptions<Schema>,
): Resource<BoundDatabase<Schema>> {
  const config = checkPostgresOptions(options as PostgresOptions<Record<string, unknown>>)
  return new PostgresResource(config, options as PostgresOptions<Record<string, unknown>>) as unknown as Resource<
    BoundDatabase<Schema>
  >
}

/**
 * Runs `fn` with one connection kept for all statements of `db` in it: for session settings, advisory locks and temporary
 * tables. The connection is reset afterwards.
 *
 * @param db `scope.db`.
 */
export function pin<Result>(db: unknown, fn: () => Result | Promise<Result>): Promise<Result> {
  return sessionOf(db).pin(fn)
}

class PostgresResource implements Resource<BoundPostgresJsDatabase>, TransactionalResource {
  readonly #config: PostgresConfig
  readonly #template: DatabaseTemplate
  readonly [advisoryAccess]: AdvisoryAccess
  #name = 'postgres'
  #pool: Pool | undefined
  #watch: IdleTransactionWatch | undefined
  #access: PostgresAccess | undefined

  constructor(config: PostgresConfig, options: PostgresOptions<Record<string, unknown>>) {
    this.#config = config
    this.#template = new DatabaseTemplate(options)
    shareArrayTypes(this.#template.client, config.arrayTypeOf)
    this[advisoryAccess] = new AdvisoryLocks(config.max, (scope) => this.#session(scope))
  }

  attach(runtime: { readonly name: string; readonly ledger: Ledger; readonly logger: () => Logger }): void {
    if (this.#pool !== undefined) {
      throw new InvalidOptionError(
        `createScopes.resources.${runtime.name}`,
        this,
        'a postgres(…) of its own: this one belongs to another runtime',
      )
    }
    this.#name = runtime.name
    this.#pool = new Pool(runtime.name, this.#config, runtime)
    const { ledger, logger } = runtime
    this.#watch = new IdleTransactionWatch(runtime.name, this.#config, () => ledger.describe(), logger)
    this.#access = {
      name: runtime.name,
      inTransaction: (scope) => this.#session(scope).isInTransaction,
      query: (scope, text, parameters) =>
        new BoundSource(this.#session(scope), undefined).unsafe(text, parameters, {
          isOurs: true,
        }) as unknown as Promise<never>,
      target: () => this.#target(),
    }
  }

  async start(): Promise<void> {
    await this.#attached.start()
    this.#watch?.start()
  }

  async stop(): Promise<void> {
    await Promise.all([this.#watch?.stop(), this.#attached.stop()])
  }

  handle(scope: Scope): BoundPostgresJsDatabase {
    return this.#template.database(new Session(scope, this.#name, this.#attached))
  }

  release(handle: BoundPostgresJsDatabase): void | Promise<void> {
    return sessionOf(handle).release()
  }

  summary(handle: BoundPostgresJsDatabase): object {
    return sessionOf(handle).summary
  }

  cancel(handle: BoundPostgresJsDatabase, _scope: Scope, reason: Error): void {
    sessionOf(handle).cancel(reason as never)
  }

  expectedWaitMs(): number {
    return this.#attached.expectedWaitMs
  }

  async health(): Promise<ResourceHealth> {
    await this.#attached.probe()
    const { counts, lastFailure, queryMs } = this.#attached
    const idleInTransaction = this.#watch?.count ?? 0
    const status = lastFailure !== undefined && counts.open === 0 ? 'down' : counts.waiting > 0 ? 'degraded' : 'up'
    const error = lastFailure instanceof Error ? lastFailure.message : undefined
    return { status, pool: counts, idleInTransaction, queryMs, ...(error !== undefined && { error }) }
  }

  transaction<Result>(scope: Scope, options: TransactionOptions, fn: () => Result | Promise<Result>): Promise<Result> {
    return this.#session(scope).transaction(options, fn)
  }

  openTransaction(scope: Scope, options: TransactionOptions): ManualTransaction {
    const session = this.#session(scope)
    const transaction = session.open(checkTransactionOptions(options), undefined) // no line of the user's begins it
    return {
      run: (fn) => session.runIn(transaction, fn),
      commit: () => transaction.commit(),
      rollback: () => transaction.rollback(),
      get state() {
        return transaction.state
      },
    }
  }

  afterCommit(scope: Scope, fn: () => unknown): boolean {
    return this.#session(scope).afterCommit(fn)
  }

  tie(scope: Scope, bond: TransactionBond): object | undefined {
    const transaction = this.#session(scope).transactionAround
    transaction?.tie(bond)
    return transaction
  }

  transactionAround(scope: Scope): object | undefined {
    return this.#session(scope).transactionAround
  }

  /** Undefined until the resource belongs to a runtime. */
  get [postgresAccess](): PostgresAccess | undefined {
    return this.#access
  }

  #target(): PostgresTarget {
    const { target, password, url } = this.#config
    return {
      user: target.user,
      database: target.database,
      password: password ?? passwordIn(url),
      place: placeOf(target),
      openSocket: async (timeoutMs) => (await openSocket(target, timeoutMs)).socket,
    }
  }

  get #attached(): Pool {
    if (this.#pool === undefined)
      throw new InvalidOptionError('postgres', this, 'given to createScopes before it is used')
    return this.#pool
  }

  #session(scope: Scope): Session {
    return sessionOf((scope as unknown as Record<string, unknown>)[this.#name])
  }
}
