import { expect, it } from 'vitest'
import { compileChild, crashRun } from './crash-run.ts'

it.each(['redis', 'postgres'] as const)(
  'has a job for every order and an order for every job on %s, after processes and servers were killed',
  async (transport) => {
    const child = await compileChild()
    const report = await crashRun({ transport, kills: 25, restarts: 2, child })
    expect(report.rows).toBeGreaterThan(0)
    expect(report).toMatchObject({ mismatches: 0, executed: report.rows, jobs: report.rows })
  },
  120_000,
)
