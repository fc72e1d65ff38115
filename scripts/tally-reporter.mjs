/**
 * Ends a test run with one plain line, `12 passed, 0 failed`. In CI a skipped test fails the run: it would hide that a
 * server was missing.
 */
export default class TallyReporter {
  onTestRunEnd(modules, errors) {
    const tally = { passed: 0, failed: 0, skipped: 0, pending: 0 }
    const skipped = []
    for (const module of modules) {
      for (const test of module.children.allTests()) {
        const { state } = test.result()
        tally[state] += 1
        if (state === 'skipped') skipped.push(`${module.relativeModuleId} > ${test.fullName}`)
      }
    }
    // A file that could not even be loaded has no tests.
    tally.failed += modules.filter((module) => module.state() === 'failed' && module.errors().length > 0).length
    tally.failed += errors.length
    const left = [tally.skipped && `${tally.skipped} skipped`, tally.pending && `${tally.pending} not run`].filter(
      Boolean,
    )
    process.once('exit', () => {
      if (process.env.CI === 'true' && left.length > 0) {
        console.log(`\nSkipped tests fail in CI:\n${skipped.map((name) => `  ${name}`).join('\n')}`)
        process.exitCode = 1
      }
      console.log([`${tally.passed} passed`, `${tally.failed} failed`, ...left].join(', '))
    })
  }
}
