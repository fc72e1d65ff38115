import type { ExtractTablesWithRelations } from 'drizzle-orm'
import type { PgDialect } from 'drizzle-orm/pg-core'
import { RelationalQueryBuilder } from 'drizzle-orm/pg-core/query-builders/query'
import { drizzle, PostgresJsDatabase, PostgresJsSession, PostgresJsTransaction } from 'drizzle-orm/postgres-js'
import createClient, { type Sql } from 'postgres'
import { InvalidOptionError } from '../errors.ts'
import { owner } from '../scope/ownership.ts'
import type { Scope } from '../scope/scope.ts'
import { BoundSource, boundClient } from './bound-client.ts'
import type { Level } from './level.ts'
import type { PostgresOptions } from './options.ts'
import { BoundPreparedQuery } from './prepared-query.ts'
import type { Session } from './session.ts'

/** What `scope.db` is: a drizzle database, with a tagged-template client as `$client`, both bound to the scope. */
export type BoundDatabase<Schema extends Record<string, unknown>> = PostgresJsDatabase<Schema> & {
  readonly $client: Sql
}

type AnySchema = Record<string, unknown>
type TransactionConfig = NonNullable<Parameters<PostgresJsDatabase['transaction']>[1]>

interface RelationalTables {
  readonly fullSchema: AnySchema
  readonly schema: AnySchema | undefined
  readonly tableNamesMap: Record<string, string>
}

/** What drizzle works out from the schema, once for all scopes. */
export class DatabaseTemplate {
  /** A client that never connects. */
  readonly client: Sql
  readonly dialect: PgDialect
  readonly tables: RelationalTables
  readonly #Tables: new (
    session: BoundSession,
  ) => object

  constructor(options: PostgresOptions<AnySchema>) {
    this.client = createClient({ max: 1, types: options.types ?? {}, onnotice: () => {} })
    const { schema, casing } = options
    const made = drizzle(this.client, {
      ...(schema !== undefined && { schema }),
      ...(casing !== undefined && { casing }),
    }) as unknown as { dialect: PgDialect; _: RelationalTables }
    this.dialect = made.dialect
    this.tables = made._
    this.#Tables = tablesClassFor(this)
  }

  database(session: Session): BoundPostgresJsDatabase {
    return new BoundPostgresJsDatabase(this, new BoundSession(session, undefined, this))
  }

  transaction(session: Session, level: Level): BoundTransaction {
    return new BoundTransaction(this, new BoundSession(session, level, this), level.depth)
  }

  query(session: BoundSession): object {
    return new this.#Tables(session)
  }
}

/** A class whose prototype has a getter for each table: `db.query.orders` is built when it is asked for. */
function tablesClassFor(template: DatabaseTemplate): new (session: BoundSession) => object {
  const { fullSchema, schema, tableNamesMap } = template.tables
  class Tables {
    readonly #session: BoundSession
    constructor(session: BoundSession) {
      this.#session = session
    }
    static sessionOf(tables: Tables): BoundSession {
      return tables.#session
    }
  }
  for (const [name, config] of Object.entries(schema ?? {})) {
    const table = () => {} // never on a stack, so that none of it is left out
    Object.defineProperty(Tables.prototype, name, {
      enumerable: true,
      get(this: Tables) {
        Tables.sessionOf(this).owner.statements?.calledFrom(table)
        return new RelationalQueryBuilder(
          fullSchema as never,
          schema as never,
          tableNamesMap,
          fullSchema[name] as never,
          config as never,
          template.dialect,
          Tables.sessionOf(this) as never,
        )
      },
    })
  }
  return Tables
}

/** Drizzle's session over the statements of one scope, at one level of its transactions. */
export class BoundSession extends PostgresJsSession<Sql, AnySchema, ExtractTablesWithRelations<AnySchema>> {
  readonly owner: Session
  readonly level: Level | undefined
  readonly #template: DatabaseTemplate

  constructor(owner: Session, level: Level | undefined, template: DatabaseTemplate) {
    super(new BoundSource(owner, level) as unknown as Sql, template.dialect, undefined, {})
    this.owner = owner
    this.level = level
    this.#template = template
  }

  override prepareQuery(...args: Parameters<PostgresJsSession<Sql, AnySchema, never>['prepareQuery']>): never {
    const [query, fields, , , mapRows] = args
    return new BoundPreparedQuery(this.owner, this.level, query, fields, mapRows as never) as never
  }

  override transaction<Result>(
    fn: (tx: PostgresJsTransaction<AnySchema, ExtractTablesWithRelations<AnySchema>>) => Promise<Result>,
    config?: TransactionConfig,
  ): Promise<Result> {
    return this.owner.drizzleTransaction(config ?? {}, this.level, (inner) =>
      fn(this.#template.transaction(this.owner, inner)),
    )
  }
}

export class BoundPostgresJsDatabase extends PostgresJsDatabase<AnySchema> {
  readonly #template: DatabaseTemplate
  readonly #session: BoundSession
  #client: Sql | undefined

  constructor(template: DatabaseTemplate, session: BoundSession) {
    // Without the schema: the constructor would build a query builder for every table, for every scope.
    super(template.dialect as never, session as never, undefined)
    this.#template = template
    this.#session = session
    dressWithSchema(this, template, session)
  }

  get $client(): Sql {
    this.#client ??= boundClient(this.#session.owner, this.#session.level, this.#template.client)
    return this.#client
  }

  get [owner](): Scope {
    return this.#session.owner.scope
  }

  static sessionOf(database: unknown): Session | undefined {
    return typeof database === 'object' && database !== null && #session in database
      ? database.#session.owner
      : undefined
  }
}

export class BoundTransaction extends PostgresJsTransaction<AnySchema, ExtractTablesWithRelations<AnySchema>> {
  readonly #session: BoundSession

  constructor(template: DatabaseTemplate, session: BoundSession, depth: number) {
    super(template.dialect as never, session as never, undefined, depth)
    this.#session = session
    dressWithSchema(this, template, session)
  }

  override transaction<Result>(fn: (tx: never) => Promise<Result>): Promise<Result> {
    return this.#session.transaction(fn as never)
  }

  get [owner](): Scope {
    return this.#session.owner.scope
  }

  static sessionOf(database: unknown): Session | undefined {
    return typeof database === 'object' && database !== null && #session in database
      ? database.#session.owner
      : undefined
  }
}

function dressWithSchema(database: object, template: DatabaseTemplate, session: BoundSession): void {
  const { fullSchema, schema, tableNamesMap } = template.tables
  Object.assign(database, { _: { fullSchema, schema, tableNamesMap, session }, query: template.query(session) })
}

/** @throws InvalidOptionError for anything that is not a handle of ours. */
export function sessionOf(database: unknown): Session {
  const session = BoundPostgresJsDatabase.sessionOf(database) ?? BoundTransaction.sessionOf(database)
  if (session === undefined) throw new InvalidOptionError('pin.db', database, 'scope.db, or a transaction of it')
  return session
}

// What begins a statement, in the line that asks for it.
const BUILDERS = [
  'select',
  'selectDistinct',
  'selectDistinctOn',
  'insert',
  'update',
  'delete',
  'execute',
  '$count',
] as const

for (const Database of [BoundPostgresJsDatabase, BoundTransaction]) {
  const prototype = Database.prototype as unknown as Record<string, (...args: unknown[]) => unknown>
  for (const name of BUILDERS) {
    const build = prototype[name] as (...args: unknown[]) => unknown
    prototype[name] = function noteCaller(this: object, ...args: unknown[]): unknown {
      sessionOf(this).statements?.calledFrom(noteCaller)
      return build.apply(this, args)
    }
  }
}
