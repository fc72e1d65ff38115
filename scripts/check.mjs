// `npm run check`: every step a line, two at a time; a step that fails shows what it printed. `-- docs types` runs only
// the steps that are named.
import { existsSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { checkPackages } from './check-packages.mjs'
import { command } from './command.mjs'
import { checkDocBlocks } from './doc-blocks/check.mjs'
import { root } from './install.mjs'
import { checkTypes } from './types.mjs'

// The longest first, so that the others fit beside it.
const steps = {
  packages: checkPackages,
  dependencies: checkDependencies,
  types: checkTypes,
  lint: () => command('biome', ['check', '--error-on-warnings', '.']).then(() => 'format, lint, imports'),
  docs: checkDocBlocks,
}

async function checkDependencies() {
  const folders = ['packages', 'examples', 'benchmarks'].filter((folder) => existsSync(join(root, folder)))
  const output = await command('depcruise', [...folders, '--config', '.dependency-cruiser.mjs'])
  return /\(([^)]*)\)/.exec(output)?.[1]
}

const wanted = process.argv.slice(2)
const unknown = wanted.find((name) => !(name in steps))
if (unknown) {
  console.error(`Unknown step ${unknown}: there are ${Object.keys(steps).join(', ')}.`)
  process.exit(1)
}
const queue = Object.entries(steps).filter(([name]) => wanted.length === 0 || wanted.includes(name))
const failures = []

async function work() {
  for (let step = queue.shift(); step; step = queue.shift()) {
    const [name, run] = step
    const begun = performance.now()
    const took = () => `${((performance.now() - begun) / 1000).toFixed(1)} s`.padStart(7)
    try {
      const summary = await run()
      console.log(`ok   ${name.padEnd(14)}${took()}  ${summary ?? ''}`)
    } catch (error) {
      console.log(`FAIL ${name.padEnd(14)}${took()}`)
      failures.push(`──── ${name} ────\n${error.message.trim()}\n`)
    }
  }
}

await Promise.all(Array.from({ length: Math.min(2, availableParallelism()) }, work))
for (const failure of failures) console.error(`\n${failure}`)
if (failures.length > 0) process.exitCode = 1
