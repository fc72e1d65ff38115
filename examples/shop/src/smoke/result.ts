import type { Fault } from './faults.ts'
import type { Backend } from './outside.ts'
import type { Traffic, Trouble } from './traffic.ts'

/** Everything a smoke test has seen. */
export interface Observation {
  readonly traffic: Traffic
  readonly faults: readonly Fault[]
  /** Troubles that answer a fault, and all others. */
  readonly expected: readonly Trouble[]
  readonly unexpected: readonly Trouble[]
  /** After the traffic, as the shop says itself; NaN where it does not answer any more. */
  readonly leasesOut: number
  readonly openScopes: number
  /** After the traffic, as Postgres says. */
  readonly backendsAtRest: readonly Backend[]
  readonly peakBackends: number
  readonly maxBackends: number
  readonly redisClients: number
  /** More or fewer than before the traffic. */
  readonly redisClientsGrowth: number
  readonly rssMiB: number
  readonly rssGrowthMiB: number
  readonly ordersWithoutLines: number
  readonly stockMismatch: number
  readonly missingOrders: number
  readonly ordersWithoutReceipt: number
  readonly receiptsWithoutOrder: number
  readonly jobConnectionsKilled: number
  /** How the app's process ended when it was asked to, and how long that took. */
  readonly appEnding: string
  readonly closedInMs: number
  readonly backendsAfterClose: number
  /** What the app logged last. */
  readonly lastWords: readonly string[]
}

/** The line of JSON that a smoke test ends with. */
export interface Result {
  readonly requests: number
  readonly aborted: number
  readonly unexpected5xx: number
  readonly leasesOut: number
  readonly idleInTransaction: number
  readonly pgConnectionsOverMax: number
  readonly ordersWithoutLines: number
  readonly stockMismatch: number
  readonly ordersWithoutReceipt: number
  readonly receiptsWithoutOrder: number
  readonly redisClientsGrowth: number
  readonly rssGrowthMiB: number
  readonly ok: boolean
}

/** One thing that was measured, and how far it may go. */
export interface Finding {
  readonly what: string
  readonly measured: number | string
  /** Without it, the finding is told only. */
  readonly allowed?: string
  readonly ok: boolean
}

const RSS_MAY_GROW_MIB = 64

export function resultOf(seen: Observation): Result {
  return {
    requests: seen.traffic.requests,
    aborted: seen.traffic.aborted,
    unexpected5xx: countOf(seen.unexpected, 'server error'),
    leasesOut: seen.leasesOut,
    idleInTransaction: seen.backendsAtRest.filter(({ state }) => state.startsWith('idle in transaction')).length,
    pgConnectionsOverMax: Math.max(0, seen.peakBackends - seen.maxBackends),
    ordersWithoutLines: seen.ordersWithoutLines,
    stockMismatch: seen.stockMismatch,
    ordersWithoutReceipt: seen.ordersWithoutReceipt,
    receiptsWithoutOrder: seen.receiptsWithoutOrder,
    redisClientsGrowth: seen.redisClientsGrowth,
    rssGrowthMiB: Math.round(seen.rssGrowthMiB * 10) / 10,
    ok: findingsOf(seen).every(({ ok }) => ok),
  }
}

export function findingsOf(seen: Observation): Finding[] {
  const { traffic, faults, expected, unexpected, backendsAtRest } = seen
  const backends = faults.filter((fault) => fault.target === 'postgres')
  const redisConnections = faults.reduce((sum, fault) => sum + (fault.target === 'redis' ? fault.connections : 0), 0)
  const abortedPercent = (100 * traffic.aborted) / traffic.requests
  const inTransaction = backendsAtRest.filter(({ state }) => state.startsWith('idle in transaction')).length
  return [
    atLeast(1, 'requests', traffic.requests),
    atLeast(15, 'aborted by the client, %', abortedPercent),
    told('backends killed', backends.length),
    told(
      '  of which inside a transaction',
      backends.filter(({ state }) => state.startsWith('idle in transaction')).length,
    ),
    told('  of which in a statement', backends.filter(({ state }) => state === 'active').length),
    told('connections to Redis killed', redisConnections),
    told('requests that were told so (typed 503, or a stream cut off)', expected.length),
    atMost(0, 'unexpected 5xx', countOf(unexpected, 'server error')),
    atMost(
      0,
      'answers cut off or missing without a fault',
      countOf(unexpected, 'cut off') + countOf(unexpected, 'no answer'),
    ),
    atMost(0, 'wrong answers', countOf(unexpected, 'wrong answer')),
    atMost(0, 'leases out after the traffic', seen.leasesOut),
    atMost(0, 'scopes open after the traffic', seen.openScopes),
    atMost(0, 'idle in transaction after the traffic (pg_stat_activity)', inTransaction),
    atMost(seen.maxBackends, 'connections at the peak (pg_stat_activity)', seen.peakBackends),
    told('connections after the traffic (pg_stat_activity)', backendsAtRest.length),
    told('connections to Redis after the traffic (CLIENT LIST)', seen.redisClients),
    atMost(0, '  more than before the traffic', seen.redisClientsGrowth),
    atMost(0, 'orders without lines', seen.ordersWithoutLines),
    atMost(0, 'orders confirmed with 201 but not there', seen.missingOrders),
    atMost(0, 'products whose stock does not add up', seen.stockMismatch),
    told('connections of the jobs to Postgres killed', seen.jobConnectionsKilled),
    atMost(0, 'orders without a receipt', seen.ordersWithoutReceipt),
    atMost(0, 'receipts without an order', seen.receiptsWithoutOrder),
    told('RSS at the peak, MiB', seen.rssMiB),
    atMost(RSS_MAY_GROW_MIB, 'RSS growth since the warm-up, MiB', seen.rssGrowthMiB),
    {
      what: 'how its process ended (asked to by SIGTERM)',
      measured: seen.appEnding,
      allowed: 'exit code 0',
      ok: seen.appEnding === 'exit code 0',
    },
    atMost(10_000, 'time it took to close, ms', Math.round(seen.closedInMs)),
    atMost(0, 'connections after that (pg_stat_activity)', seen.backendsAfterClose),
  ]
}

function countOf(troubles: readonly Trouble[], kind: Trouble['kind']): number {
  return troubles.filter((trouble) => trouble.kind === kind).length
}

function told(what: string, measured: number): Finding {
  return { what, measured, ok: true }
}

// Both are false for NaN: what could not be measured is not well.
function atMost(most: number, what: string, measured: number): Finding {
  return { what, measured, allowed: `≤ ${most}`, ok: measured <= most }
}

function atLeast(least: number, what: string, measured: number): Finding {
  return { what, measured, allowed: `≥ ${least}`, ok: measured >= least }
}
