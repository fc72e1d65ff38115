import type { Fault } from './faults.ts'
import type { Trouble } from './traffic.ts'

const AFTERMATH_MS = 1_000
const STREAMED = 'GET /reports/orders.csv'

/** Splits what went wrong into answers to a fault that was injected at that moment, and the unexpected rest. */
export function judge(
  troubles: readonly Trouble[],
  faults: readonly Fault[],
): { expected: Trouble[]; unexpected: Trouble[] } {
  const expected: Trouble[] = []
  const unexpected: Trouble[] = []
  for (const trouble of troubles) {
    const explained = isAnswerToFault(trouble) && faults.some((fault) => happenedIn(trouble, fault))
    ;(explained ? expected : unexpected).push(trouble)
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
