import * as drizzleOrm from 'drizzle-orm'
import { DrizzleQueryError, fillPlaceholders, type Query } from 'drizzle-orm'
import { PgPreparedQuery, type SelectedFieldsOrdered } from 'drizzle-orm/pg-core'
import { isReqscopeError } from '../errors.ts'
import { BoundQuery } from './bound-query.ts'
import type { Level } from './level.ts'
import type { Session } from './session.ts'

type MapRow = (
  fields: SelectedFieldsOrdered,
  row: unknown[],
  joinsNotNullable: Record<string, boolean> | undefined,
) => unknown

// Drizzle exports it and leaves it out of its types.
const { mapResultRow } = drizzleOrm as unknown as { mapResultRow: MapRow }

/** A statement that drizzle has built, run where its scope's statements run. */
export class BoundPreparedQuery extends PgPreparedQuery<{ execute: unknown; all: unknown; values: unknown }> {
  readonly #session: Session
  readonly #level: Level | undefined
  readonly #fields: SelectedFieldsOrdered | undefined
  readonly #mapRows: ((rows: unknown[][]) => unknown) | undefined
  /** Set by drizzle's select with joins: whose rows are null as a whole. */
  declare joinsNotNullableMap: Record<string, boolean> | undefined

  constructor(
    session: Session,
    level: Level | undefined,
    query: Query,
    fields: SelectedFieldsOrdered | undefined,
    mapRows: ((rows: unknown[][]) => unknown) | undefined,
  ) {
    super(query, undefined, undefined)
    this.#session = session
    this.#level = level
    this.#fields = fields
    this.#mapRows = mapRows
  }

  /** @throws DrizzleQueryError as drizzle does; an error of ours comes as it is, without the parameters in its message. */
  override execute(placeholders: Record<string, unknown> = {}): Promise<unknown> {
    const { sql: text, params } = this.query
    let parameters: unknown[] = params
    const fields = this.#fields
    const mapRows = this.#mapRows
    try {
      parameters = fillPlaceholders(params, placeholders)
      const query = this.#bound(text, parameters)
      const running = fields === undefined && mapRows === undefined ? query.run() : query.values().run()
      return running.then(
        (result) => {
          if (mapRows !== undefined) return mapRows(result as unknown[][])
          if (fields === undefined) return result
          return (result as unknown[][]).map((row) => mapResultRow(fields, row, this.joinsNotNullableMap))
        },
        (error: unknown) => {
          throw isReqscopeError(error) ? error : new DrizzleQueryError(text, parameters, error as Error)
        },
      )
    } catch (error) {
      return Promise.reject(error)
    }
  }

  /** Rows as objects by column name, as the driver has them. */
  all(placeholders: Record<string, unknown> = {}): Promise<unknown> {
    return this.#bound(this.query.sql, fillPlaceholders(this.query.params, placeholders)).run()
  }

  /** As drizzle's own: whether rows are to come as arrays. */
  isResponseInArrayMode(): boolean {
    return false
  }

  #bound(text: string, parameters: unknown[]): BoundQuery {
    return new BoundQuery(this.#session, this.#level, { tag: 'text', text, parameters, simple: undefined })
  }
}
