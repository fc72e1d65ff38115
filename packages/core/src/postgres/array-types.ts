import type { Sql } from 'postgres'

/** The types that arrays are made of, and the types of those arrays. */
export const ARRAY_TYPES = `
  select element.oid, element.typarray from pg_catalog.pg_type array_type
  join pg_catalog.pg_type element on element.oid = array_type.typelem
  where array_type.typcategory = 'A' and element.typarray <> 0
  group by element.oid, element.typarray`

interface ArrayType {
  readonly oid: number
  readonly typarray: number
}

type Parse = (text: string) => unknown
type Serialize = (value: unknown) => unknown

interface ClientTypes {
  readonly parsers: Record<number, Parse | undefined>
  readonly serializers: Record<number, Serialize | undefined>
  readonly shared: { typeArrayMap: ArrayTypeOf }
}

/** The type of the array of a type. */
export type ArrayTypeOf = Record<number, number>

const BOX_ARRAY = 1020

/**
 * Teaches a client to read and write arrays. By itself postgres.js asks for these types when it connects (`fetch_types`),
 * in a promise that nobody can catch: a connection that is lost at that moment would end the process.
 */
export function addArrayTypes(sql: Sql, types: readonly ArrayType[], arrayTypeOf: ArrayTypeOf): void {
  shareArrayTypes(sql, arrayTypeOf)
  const { parsers, serializers } = sql.options as unknown as ClientTypes
  for (const { oid, typarray } of types) {
    const delimiter = typarray === BOX_ARRAY ? ';' : ','
    const parse = parsers[oid]
    arrayTypeOf[oid] = typarray
    parsers[typarray] ??= (text) => parsed(text, parse, delimiter)
    serializers[typarray] ??= (value) => (Array.isArray(value) ? serialized(value, serializers[oid], delimiter) : value)
  }
}

/** For a client that never connects: what its `array()` makes is sent by another one that does. */
export function shareArrayTypes(sql: Sql, arrayTypeOf: ArrayTypeOf): void {
  const { shared } = sql.options as unknown as ClientTypes
  shared.typeArrayMap = arrayTypeOf
}

/** @see https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO */
function parsed(text: string, parse: Parse | undefined, delimiter: string): unknown[] {
  let at = text.indexOf('{') // before it there may be bounds, as in [0:1]={a,b}

  const item = (raw: string) => (parse === undefined ? raw : parse(raw))
  const quoted = () => {
    let raw = ''
    for (at++; text[at] !== '"'; at++) raw += text[at] === '\\' ? text[++at] : text[at]
    at++
    return raw
  }
  const bare = () => {
    const from = at
    while (text[at] !== delimiter && text[at] !== '}') at++
    return text.slice(from, at)
  }
  const list = (): unknown[] => {
    const items: unknown[] = []
    at++
    while (text[at] !== '}') {
      if (text[at] === '{') items.push(list())
      else if (text[at] === '"') items.push(item(quoted()))
      else {
        const raw = bare()
        items.push(raw === 'NULL' ? null : item(raw))
      }
      if (text[at] === delimiter) at++
    }
    at++
    return items
  }
  return list()
}

function serialized(values: readonly unknown[], serialize: Serialize | undefined, delimiter: string): string {
  // A list of lists, unless it is a list of values that are lists themselves, as JSON can be: the first one tells.
  const nested = Array.isArray(values[0])
  const items = values.map((value) => {
    if (nested) return serialized(value as unknown[], serialize, delimiter)
    if (value === null) return 'null'
    if (value === undefined)
      throw Object.assign(new Error('UNDEFINED_VALUE: Undefined values are not allowed'), { code: 'UNDEFINED_VALUE' })
    const raw = isTyped(value) ? value.value : value
    const text = String(serialize === undefined ? raw : serialize(raw))
    return `"${text.replace(/[\\"]/g, '\\$&')}"`
  })
  return `{${items.join(delimiter)}}`
}

/** What `sql.typed` makes. */
function isTyped(value: unknown): value is { readonly value: unknown } {
  return (value as object).constructor?.name === 'Parameter'
}
