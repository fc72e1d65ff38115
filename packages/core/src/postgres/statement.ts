import type { PendingQuery, Row, Sql } from 'postgres'
import { SharedConnectionError } from '../errors.ts'
import type { Connection } from './connection.ts'
import type { Lease } from './lease.ts'
import type { KnownText, KnownTexts } from './statement-text.ts'
import { checkParameters, checkTagged } from './unsendable.ts'

/** How a statement is given: as a text, or as a tagged template with what stands in its holes. */
export type StatementSource =
  | {
      readonly tag: 'text'
      readonly text: string
      readonly parameters: readonly unknown[]
      readonly simple: boolean | undefined
      readonly isOurs?: boolean | undefined
    }
  | { readonly tag: 'template'; readonly strings: TemplateStringsArray; readonly holes: readonly unknown[] }

/** A statement as a lease runs it. */
export interface Statement<Result> {
  readonly text: string
  readonly effect: KnownText['effect']
  readonly setsStatementTimeout: boolean
  /** Of Reqscope itself, such as an enqueue's: nothing that the user's code could run less often. */
  readonly isOurs: boolean
  /** Builds it for the lease's connection and sends it. */
  send(connection: Connection, lease: Lease): PromiseLike<Result>
  /** Told when its answer has come, whatever it is. */
  settled(): void
}

/**
 * The text that the server will see, but for lists and names in its holes.
 *
 * @param ofFragment the text of a hole that is a fragment.
 */
export function textOf(source: StatementSource, ofFragment: (hole: unknown) => string | undefined): string {
  if (source.tag === 'text') return source.text
  const { strings, holes } = source
  if (holes.some((hole) => typeof hole === 'object' && ofFragment(hole) !== undefined)) {
    return strings.reduce((before, part, index) => `${before}${ofFragment(holes[index - 1]) ?? `$${index}`}${part}`)
  }
  let text = templateTexts.get(strings)
  if (text === undefined) {
    text = strings.reduce((before, part, index) => `${before}$${index}${part}`)
    templateTexts.set(strings, text)
  }
  return text
}

const templateTexts = new WeakMap<TemplateStringsArray, string>()

/**
 * What is known of a text that is about to run.
 *
 * @throws SharedConnectionError for BEGIN, COMMIT and their kind: a transaction that is not ours would not end with its scope.
 */
export function known(text: string, texts: KnownTexts): KnownText {
  const found = texts.see(text)
  if (found.effect === 'transaction-control') throw refusedControl(text)
  return found
}

/** A query of the connection's own client, not sent before it is awaited. */
export function buildQuery(
  source: StatementSource,
  text: string,
  knownText: KnownText,
  connection: Connection,
  unwrap: (value: unknown, sql: Sql) => unknown,
): PendingQuery<Row[]> {
  const { sql } = connection
  if (source.tag === 'text') {
    const { parameters } = source
    checkParameters(parameters)
    const simple = (source.simple ?? parameters.length === 0) && !knownText.mayControl
    const prepare = !simple && connection.admits(text, knownText, parameters)
    return sql.unsafe(text, parameters as never[], { prepare, simple } as object) as PendingQuery<Row[]>
  }
  const query = sql(source.strings, ...(source.holes.map((hole) => unwrap(hole, sql)) as never[]))
  // A text with fragments or lists in it is known only once it is built, so it is never prepared.
  const { options } = query as unknown as { options: { prepare?: boolean } }
  const isPlain = source.holes.every(isPlainValue)
  if (isPlain) checkParameters(source.holes)
  else checkTagged(query, sql)
  options.prepare = isPlain && connection.admits(text, knownText, source.holes)
  return query as PendingQuery<Row[]>
}

function isPlainValue(value: unknown): boolean {
  return value === null || typeof value !== 'object' || value instanceof Date || value instanceof Uint8Array
}

/** What a text with transaction control among several statements failed with, if that is why. */
export function refusedAmongSeveral(error: unknown, knownText: KnownText | undefined): unknown {
  const { code, routine } = error as { code?: unknown; routine?: unknown }
  if (!knownText?.mayControl || code !== '42601' || routine !== 'exec_parse_message') return error
  return refusedControl(undefined, error)
}

function refusedControl(text: string | undefined, cause?: unknown): SharedConnectionError {
  const word = text === undefined ? undefined : /^(?:\s|;|--[^\n]*\n|\/\*[\s\S]*?\*\/)*(\w+)/.exec(text)?.[1]
  const operation = word?.toUpperCase() ?? 'Transaction control among several statements'
  return new SharedConnectionError({
    resource: 'a Postgres handle',
    operation,
    instead:
      'transactions are begun and ended by scope.transaction(fn) or db.transaction(fn), so that they always end.',
    cause,
  })
}
