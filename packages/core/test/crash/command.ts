// `npm run crash-test -- --kills 1000`
import { parseArgs } from 'node:util'
import { compileChild, crashRun } from './crash-run.ts'

const { values } = parseArgs({
  options: { kills: { type: 'string', default: '50' }, transport: { type: 'string' }, restarts: { type: 'string' } },
})
const kills = Number(values.kills)
const restarts = Number(values.restarts ?? Math.max(2, Math.round(kills / 50)))
if (!Number.isInteger(kills) || kills < 1 || !Number.isInteger(restarts)) {
  console.error('--kills N [--restarts N] [--transport redis|postgres]')
  process.exit(1)
}

const child = await compileChild()
let failed = false
for (const transport of ['redis', 'postgres'] as const) {
  if (values.transport !== undefined && values.transport !== transport) continue
  const begun = performance.now()
  const report = await crashRun({ transport, kills, restarts, child })
  console.log(
    `${transport.padEnd(9)} ${report.kills} kills, ${report.restarts} restarts: ${report.rows} rows, ${report.jobs} jobs, ` +
      `${report.executed} executed, ${report.repeats} of them again, ${report.mismatches} mismatches ` +
      `(${((performance.now() - begun) / 1000).toFixed(0)} s)`,
  )
  failed ||= report.mismatches > 0 || report.executed !== report.rows || report.rows === 0
}
process.exit(failed ? 1 : 0)
