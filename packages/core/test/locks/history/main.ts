// npm run lock-history -- --seconds 60 [--processes 8] [--store redis|postgres] [--calm]
import { parseArgs } from 'node:util'
import { startPostgres, startRedis } from '@reqscope/services'
import { history } from './history.ts'

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '60' },
    processes: { type: 'string', default: '8' },
    store: { type: 'string' },
    calm: { type: 'boolean', default: false },
  },
})
const seconds = Number(values.seconds)
const processes = Number(values.processes)
if (!(seconds > 0) || !Number.isInteger(processes) || processes < 1) {
  console.error('lock-history: --seconds must be a number above 0, --processes an integer of at least 1')
  process.exit(2)
}
const stores = (['redis', 'postgres'] as const).filter((store) => values.store === undefined || values.store === store)
const redis = await startRedis({ own: true, aof: true })
const postgres = await startPostgres()
let violations = 0
for (const store of stores) {
  const result = await history({ store, seconds, processes, redis, postgres: postgres.url, faults: !values.calm })
  const { waits, refusals } = result
  console.log(
    `${store}: ${processes} processes for ${seconds} s; ${result.pauses} pauses, ${result.cuts} cuts, ${result.restarts} restarts`,
  )
  console.log(`  asks ${result.asks}, holds ${result.holds}, overlaps ${result.overlaps}, told lost ${result.lost}`)
  console.log(`  fenced writes ${result.writes}, stale writes refused ${result.staleWritesRefused}`)
  console.log(
    `  waits in ms: median ${waits.median.toFixed(1)}, p99 ${waits.p99.toFixed(1)}, slowest ${waits.slowest.toFixed(1)} (${(waits.slowest / waits.median).toFixed(1)} × the median)`,
  )
  console.log(
    `  not had: ${
      Object.entries(refusals)
        .map(([code, count]) => `${code} ${count}`)
        .join(', ') || 'none'
    }`,
  )
  for (const violation of result.violations.slice(0, 20)) console.log(`  VIOLATION ${violation}`)
  violations += result.violations.length
}
await Promise.all([redis.stop(), postgres.stop()])
process.exit(violations === 0 ? 0 : 1)
