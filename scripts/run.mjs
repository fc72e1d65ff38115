// Every npm script of the root goes through here: it installs what is missing or stale, then runs the task. It has no
// dependencies, and keeps standard output for the task.
import { spawn } from 'node:child_process'
import { constants } from 'node:os'
import { delimiter, join } from 'node:path'
import { installWhenStale, root } from './install.mjs'

const node = (...args) => [process.execPath, args]
const typescript = (file, ...args) => node('--import', 'tsx', file, ...args)

const tasks = {
  start: (args) => typescript('examples/shop/src/start.ts', ...args),
  incidents: (args) => typescript('examples/incidents/src/main.ts', ...args),
  songs: (args) => typescript('examples/express-songs/src/start.ts', ...args),
  bench: (args) => typescript('benchmarks/src/bench.ts', ...args),
  'lock-history': (args) => typescript('packages/core/test/locks/history/main.ts', ...args),
  test: (args) => ['vitest', ['run', ...args]],
  'crash-test': (args) => typescript('packages/core/test/crash/command.ts', ...args),
  check: (args) => node('scripts/check.mjs', ...args),
  build: (args) => node('scripts/build.mjs', ...args),
  format: (args) => ['biome', ['check', '--write', ...(args.length ? args : ['.'])]],
  'node-versions': (args) => typescript('scripts/node-versions.mjs', ...args),
  'adapter-lines': (args) => node('scripts/adapter-lines.mjs', ...args),
  types: (args) => node('scripts/types.mjs', ...args),
  changeset: (args) => ['changeset', args],
}

const [name, ...rest] = process.argv.slice(2)
const task = tasks[name]
if (!task) {
  console.error(`Unknown task ${name}: there are ${Object.keys(tasks).join(', ')}.`)
  process.exit(1)
}
// Ours on every task: says yes to installing Redis (see packages/services).
const args = rest.filter((arg) => arg !== '--install')
if (args.length < rest.length) process.env.REQSCOPE_INSTALL = '1'

installWhenStale()
const [command, commandArgs] = task(args)
const path = [join(root, 'node_modules', '.bin'), process.env.PATH].join(delimiter)
const child = spawn(command, commandArgs, {
  cwd: root,
  stdio: 'inherit',
  env: { ...process.env, PATH: path },
  shell: process.platform === 'win32',
})

// The terminal sends Ctrl-C to the task as well, which decides how to end; a plain kill reaches only this process.
process.on('SIGINT', () => {})
for (const signal of ['SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal))
child.on('error', (error) => {
  console.error(error.message)
  process.exit(1)
})
child.on('exit', (code, signal) => process.exit(code ?? 128 + constants.signals[signal]))
