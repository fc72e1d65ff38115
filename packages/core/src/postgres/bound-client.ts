import type { Sql } from 'postgres'
import { SharedConnectionError } from '../errors.ts'
import { owner } from '../scope/ownership.ts'
import type { TransactionOptions } from '../scope/resource.ts'
import { BoundQuery, CLOSE } from './bound-query.ts'
import type { Level } from './level.ts'
import type { Session } from './session.ts'

/** The part of a postgres.js client that drizzle uses for statements. */
export class BoundSource {
  readonly session: Session
  readonly level: Level | undefined

  constructor(session: Session, level: Level | undefined) {
    this.session = session
    this.level = level
  }

  unsafe(
    text: string,
    parameters: readonly unknown[] | undefined,
    options?: { simple?: boolean; isOurs?: boolean },
  ): BoundQuery {
    return new BoundQuery(this.session, this.level, {
      tag: 'text',
      text,
      parameters: parameters ?? [],
      simple: options?.simple,
      isOurs: options?.isOurs,
    })
  }
}

const JSONB = 3802

const INSTEAD: Record<string, string> = {
  reserve: 'a scope leases its connections by itself; where one has to stay the same, use pin(scope.db, fn).',
  listen: 'a LISTEN outlives a request. Listen with a client of your own, in a resource (defineResource).',
  subscribe: 'a subscription outlives a request. Subscribe with a client of your own, in a resource (defineResource).',
  end: 'connections belong to the runtime: scopes.close() closes them.',
  close: 'connections belong to the runtime: scopes.close() closes them.',
  largeObject: 'a large object needs a connection of its own. Use lo_get and lo_put in statements.',
  file: 'read the file yourself and pass its text to unsafe.',
}

/**
 * A tagged-template client of postgres.js that is bound to a scope: every statement runs where the scope's own would, and
 * `begin` is the transaction around, a savepoint inside of one.
 *
 * @param template a client that never connects: helpers such as `sql(object)` are its own.
 */
export function boundClient(session: Session, level: Level | undefined, template: Sql): Sql {
  const source = new BoundSource(session, level)
  const tagged = (first: unknown, ...rest: unknown[]): unknown => {
    session.statements?.calledFrom(tagged)
    return isTemplate(first)
      ? new BoundQuery(session, level, { tag: 'template', strings: first, holes: rest })
      : (template as unknown as (...args: unknown[]) => unknown)(first, ...rest)
  }

  const transaction = (...args: [unknown, unknown?]): Promise<unknown> => {
    const [options, fn] = typeof args[0] === 'function' ? ['', args[0]] : args
    const inTransaction = (inner: Level) =>
      settleAll((fn as (sql: Sql) => unknown)(boundClient(session, inner, template)))
    return session.drizzleTransaction(optionsOf(String(options)), level, inTransaction)
  }

  for (const [operation, instead] of Object.entries(INSTEAD)) {
    Object.assign(tagged, {
      [operation]: () => {
        throw new SharedConnectionError({
          resource: `${session.resource}.$client`,
          operation: `${operation}()`,
          instead,
        })
      },
    })
  }
  return Object.assign(tagged, {
    [owner]: session.scope,
    unsafe: (text: string, parameters?: unknown[], options?: { simple?: boolean }) =>
      Array.isArray(parameters) || parameters === undefined
        ? source.unsafe(text, parameters, options)
        : source.unsafe(text, [], parameters as { simple?: boolean }),
    notify: (channel: string, payload: string) => source.unsafe('select pg_notify($1, $2)', [channel, payload]),
    begin: transaction,
    savepoint: transaction,
    // As text already: a string is a JSON value too.
    json: (value: unknown) => template.typed(JSON.stringify(value), JSONB),
    array: template.array,
    types: template.types,
    typed: template.typed,
    options: template.options,
    parameters: template.parameters,
    PostgresError: template.PostgresError,
    CLOSE,
    END: CLOSE,
  }) as unknown as Sql
}

function isTemplate(value: unknown): value is TemplateStringsArray {
  return Array.isArray(value) && Array.isArray((value as unknown as TemplateStringsArray).raw)
}

/** As in postgres.js, a transaction's function may return several statements at once. */
function settleAll(value: unknown): unknown {
  return Array.isArray(value) ? Promise.all(value) : value
}

/** `begin('isolation level serializable read only', fn)`, as in postgres.js; anything else that is a string is a savepoint's name. */
function optionsOf(text: string): TransactionOptions {
  const words = text.toLowerCase()
  const isolationLevel = /isolation level (serializable|repeatable read|read committed|read uncommitted)/.exec(
    words,
  )?.[1]
  const accessMode = /\bread (?:only|write)\b/.exec(words.replace(/read (?:un)?committed/, ''))?.[0]
  return {
    ...(isolationLevel !== undefined && { isolationLevel: isolationLevel as 'serializable' }),
    ...(accessMode !== undefined && { accessMode: accessMode as 'read only' }),
    ...(/\bdeferrable\b/.test(words) && { deferrable: !/not deferrable/.test(words) }),
  }
}
