/**
 * Closes the gap at the beginning of a result.
 *
 * postgres.js counts rows per connection and goes on counting where a statement failed after some of its rows had come:
 * the next result on that connection, whosever it is, begins with as many holes.
 */
export function withoutGap<Result>(result: Result): Result {
  if (!Array.isArray(result) || result.length === 0) return result
  if (0 in result) {
    // Several statements in one text: only the first of their results can have it.
    if ((result as { command?: unknown }).command === undefined && Array.isArray(result[0])) withoutGap(result[0])
    return result
  }
  let first = 1
  while (!(first in result)) first++
  result.splice(0, first)
  return result
}
