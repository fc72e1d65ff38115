import type { Fault } from './faults.ts'
import type { Trouble } from './traffic.ts'

const AFTERMATH_MS = 1_000
// A backend serves one request at a time; another one may be given its connection before its end is noticed.
const ANSWERS_PER_FAULT = 2
const STREAMED = 'GET /reports/orders.csv'

/** Splits what went wrong into answers to a fault that was injected at that moment, and the unexpected rest. */
export function judge(
  troubles: readonly Trouble[],
  faults: readonly Fault[],
): { expected: Trouble[]; unexpected: Trouble[] } {
  const expected: Trouble[] = []
  const unexpected: Trouble[] = []
  const left = new Map(faults.map((fault) => [fault, ANSWERS_PER_FAULT]))
  for (const trouble of troubles) {
    const answered = isAnswerToFault(trouble)
      ? [...left].find(([fault, n]) => n > 0 && happenedIn(trouble, fault))
      : undefined
    if (answered !== undefined) left.set(answered[0], answered[1] - 1)
    ;(answered === undefined ? unexpected : expected).push(trouble)
  }
  return { expected, unexpected }
}

/** The typed 503; or, where the head was out already, an answer that visibly ends too early. */
function isAnswerToFault({ kind, route, status, contentType, code }: Trouble): boolean {
  if (kind === 'cut off') return route === STREAMED
  if (kind !== 'server error') return false
  return (
    status === 503 && contentType?.startsWith('application/problem+json') === true && code === 'RSC_CONNECTION_LOST'
  )
}

function happenedIn({ endedAt }: Trouble, fault: Fault): boolean {
  return endedAt >= fault.startedAt && endedAt <= fault.endedAt + AFTERMATH_MS
}
