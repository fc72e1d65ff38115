import { findingsOf, type Observation } from './result.ts'
import { table } from './table.ts'
import type { Trouble } from './traffic.ts'

const TROUBLES_SHOWN = 10
const LINE_SHOWN = 240

/** What people read: the traffic by route, then what was found. */
export function reportOf(seen: Observation): string {
  const routes = Object.entries(seen.traffic.routes).map(
    ([route, { complete, aborted, medianMs, slowestMs, statuses }]) => [
      route,
      complete,
      aborted,
      Number(medianMs.toFixed(1)),
      Number(slowestMs.toFixed(1)),
      Object.entries(statuses)
        .map(([status, count]) => `${status}: ${count}`)
        .join(', '),
    ],
  )
  const findings = findingsOf(seen).map(({ what, measured, allowed, ok }) => [
    what,
    measured,
    allowed ?? '',
    allowed === undefined ? '' : ok ? 'ok' : 'NOT OK',
  ])
  return [
    table(['route', 'complete', 'aborted', 'median ms', 'slowest ms', 'answers'], routes),
    table(['seen from outside', 'measured', 'allowed', ''], findings),
    ...seen.unexpected.slice(0, TROUBLES_SHOWN).map(described),
    ...(findingsOf(seen).every(({ ok }) => ok) ? [] : [context(seen)]),
  ].join('\n\n')
}

/** What helps to find out why not all is well. */
function context({ faults, lastWords }: Observation): string {
  const kills = faults.map(
    (fault) =>
      `${new Date(fault.startedAt).toISOString()} killed ${fault.target === 'redis' ? `${fault.connections} connections to Redis` : `${fault.pid} (${fault.state})`}`,
  )
  const words = lastWords.map((line) => (line.length > LINE_SHOWN ? `${line.slice(0, LINE_SHOWN)}…` : line))
  return ['Faults:', ...kills, '', 'The last words of the shop:', ...words].join('\n')
}

function described({ kind, route, status, what, startedAt, endedAt }: Trouble): string {
  const when = `${new Date(endedAt).toISOString()}, after ${endedAt - startedAt} ms`
  return `Unexpected: ${kind}${status === undefined ? '' : ` ${status}`} from ${route} at ${when}\n  ${what}`
}
