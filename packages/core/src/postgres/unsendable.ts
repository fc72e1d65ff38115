import type { Sql } from 'postgres'

/** What the server takes in no parameter of any type. */
const REFUSED = '\0'
const REFUSAL = '22021' // character_not_in_repertoire
const MAX_PARAMETERS = 65_533

type Serialize = (value: unknown) => unknown

/**
 * postgres.js turns values into parameters while it sends a statement. Where that throws with another statement on its
 * way, it tells that other one, and leaves the wrong one without an answer for ever. So nothing may throw then: a value
 * that can't be sent becomes one that the server refuses, and what is wrong with it is kept until the refusal comes.
 */
export class UnsendableValues {
  readonly #errors: unknown[] = []

  /** Makes the client's serializers such that they never throw, and give nothing but text. */
  guard(sql: Sql): void {
    const { serializers } = sql.options as unknown as { serializers: Record<number, Serialize> }
    for (const [type, serialize] of Object.entries(serializers)) {
      serializers[Number(type)] = (value) => {
        try {
          const text = serialize(value)
          if (typeof text === 'string') return text
          throw new TypeError(
            `A value can't be sent to Postgres: ${typeof value === 'object' ? 'its kind of object' : typeof value} is not text`,
          )
        } catch (error) {
          return this.#refused(error)
        }
      }
    }
  }

  /** What a statement failed with: the server's error, unless it is the refusal of a value of ours. */
  explain(error: unknown): unknown {
    if ((error as { code?: unknown }).code !== REFUSAL) return error
    return this.#errors.shift() ?? error
  }

  /** Nothing is on its way any more. */
  forget(): void {
    this.#errors.length = 0
  }

  #refused(error: unknown): string {
    this.#errors.push(error)
    return REFUSED
  }
}

/** @throws what the client would throw while it sends. */
export function checkParameters(parameters: readonly unknown[]): void {
  if (parameters.length > MAX_PARAMETERS) {
    throw codedError('MAX_PARAMETERS_EXCEEDED', `Max number of parameters (${MAX_PARAMETERS + 1}) exceeded`)
  }
  for (const value of parameters) {
    if (value === undefined || (isTyped(value) && value.value === undefined)) {
      throw codedError('UNDEFINED_VALUE', 'Undefined values are not allowed')
    }
    if (typeof value === 'symbol') throw new TypeError('A symbol cannot be a parameter')
  }
}

interface BuiltQuery {
  readonly strings: readonly string[]
  readonly args: readonly unknown[]
}

/**
 * Builds the text of a tagged statement as the client will do it.
 *
 * @throws what that throws, for a list without items for one.
 */
export function checkTagged(query: object, sql: Sql): void {
  const isQuery = (value: unknown): value is BuiltQuery => value instanceof (query.constructor as new () => object)
  const parameters: unknown[] = []
  const textOf = ({ strings, args }: BuiltQuery): string => {
    let text = strings[0] ?? ''
    for (let index = 1; index < strings.length; index++) text += partOf(text, args[index - 1]) + strings[index]
    return text
  }
  const partOf = (before: string, value: unknown): string => {
    if (isQuery(value)) return textOf(value)
    if (Array.isArray(value) && isQuery(value[0])) return value.map((each) => ` ${textOf(each)}`).join('')
    if (isHelper(value)) return value.build(before, parameters, [], sql.options)
    return `$${parameters.push(value)}`
  }
  textOf(query as BuiltQuery)
  checkParameters(parameters)
}

/** What `sql(rows)` and its kind make. */
function isHelper(
  value: unknown,
): value is { build(before: string, parameters: unknown[], types: unknown[], options: object): string } {
  return typeof (value as { build?: unknown } | null | undefined)?.build === 'function'
}

/** What `sql.typed` makes. */
function isTyped(value: unknown): value is { readonly value: unknown } {
  return typeof value === 'object' && value?.constructor?.name === 'Parameter'
}

function codedError(code: string, message: string): Error {
  return Object.assign(new Error(`${code}: ${message}`), { code })
}
