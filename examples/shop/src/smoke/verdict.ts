import type { Fault } from './faults.ts'
import type { Trouble } from './traffic.ts'

const AFTERMATH_MS = 1_000
// A backend serves one request at a time; another one may be given its connection before its end is noticed.
const ANSWERS_PER_BACKEND = 2
const STREAMED = 'GET /reports/orders.csv'

/**
 * Splits what went wrong into answers to a fault that was injected at that moment, and the unexpected rest.
 *
 * @param requestsAtOnce how many requests there are at a time: so many may be under way over Redis' shared connection.
 */
export function judge(
  troubles: readonly Trouble[],
  faults: readonly Fault[],
  requestsAtOnce: number,
): { expected: Trouble[]; unexpected: Trouble[] } {
  const expected: Trouble[] = []
  const unexpected: Trouble[] = []
  const left = new Map(
    faults.map((fault) => [fault, fault.target === 'redis' ? requestsAtOnce : ANSWERS_PER_BACKEND] as const),
  )
  for (const trouble of troubles) {
    const answered = [...left].find(([fault, n]) => n > 0 && happenedIn(trouble, fault) && isAnswerTo(fault, trouble))
    if (answered !== undefined) left.set(answered[0], answered[1] - 1)
    ;(answered === undefined ? unexpected : expected).push(trouble)
  }
  return { expected, unexpected }
}

/** The typed 503; or, where the head was out already, an answer that visibly ends too early; or the word that Redis is down. */
function isAnswerTo({ target }: Fault, { kind, route, status, contentType, code, what }: Trouble): boolean {
  if (kind === 'cut off') return route === STREAMED && target === 'postgres'
  if (kind !== 'server error' || status !== 503) return false
  if (route === 'GET /health') return target === 'redis' && /"redis":\{"status":"down"/.test(what)
  return contentType?.startsWith('application/problem+json') === true && code === 'RSC_CONNECTION_LOST'
}

function happenedIn({ endedAt }: Trouble, fault: Fault): boolean {
  return endedAt >= fault.startedAt && endedAt <= fault.endedAt + AFTERMATH_MS
}
