import type { Sql } from 'postgres'

/** A statement, standing in a hole of another one. */
export abstract class Fragment {
  abstract get text(): string
  abstract asFragment(sql: Sql): unknown
}

function isFragment(value: unknown): value is Fragment {
  return value instanceof Fragment
}

/** The text of a hole that is a fragment, or a list of fragments. */
export function fragmentText(hole: unknown): string | undefined {
  if (isFragment(hole)) return hole.text
  return Array.isArray(hole) && isFragment(hole[0]) ? hole.map(fragmentText).join(' ') : undefined
}

/** What stands in a hole of a tagged statement, as the client of the connection it runs on understands it. */
export function unwrap(value: unknown, sql: Sql): unknown {
  if (isFragment(value)) return value.asFragment(sql)
  if (Array.isArray(value) && isFragment(value[0])) return value.map((each) => unwrap(each, sql))
  if (typeof value === 'object' && value !== null && 'rest' in value && isHelper(value, sql))
    return unwrapHelper(value, sql)
  return value
}

/** What `sql(object)` and `sql(list)` make, before they are put into a statement. */
interface Helper {
  readonly first: unknown
  readonly rest: readonly unknown[]
}

function isHelper(value: object, sql: Sql): value is Helper {
  return value.constructor === (sql([] as never) as object).constructor
}

function unwrapHelper({ first, rest }: Helper, sql: Sql): unknown {
  const inRow = (row: unknown): unknown => {
    if (Array.isArray(row)) return row.map((each) => unwrap(each, sql))
    if (typeof row !== 'object' || row === null || isFragment(row)) return unwrap(row, sql)
    return Object.fromEntries(Object.entries(row).map(([column, value]) => [column, unwrap(value, sql)]))
  }
  const rows = Array.isArray(first) ? first.map(inRow) : inRow(first)
  return (sql as unknown as (...args: unknown[]) => unknown)(rows, ...rest)
}
