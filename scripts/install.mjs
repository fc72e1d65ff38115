import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

export const root = fileURLToPath(new URL('..', import.meta.url))

const { packageManager } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
/** `pnpm@<version>`, as npx takes it. */
export const pnpm = packageManager.split('+')[0]

const stamp = join(root, 'node_modules', '.reqscope-installed')

/** Installs with the pinned pnpm, fetched by npx, unless node_modules already is what the lockfile says. */
export function installWhenStale() {
  const wanted = fingerprint()
  if (read(stamp) === wanted) return
  const begun = performance.now()
  process.stderr.write(`Installing dependencies (${pnpm}) … `)
  runPnpm(['install', '--frozen-lockfile'], { CI: 'true' })
  writeFileSync(stamp, wanted)
  process.stderr.write(`done in ${((performance.now() - begun) / 1000).toFixed(1)} s\n`)
}

/** Runs pnpm quietly; shows its output, and ends this process, when it fails. */
export function runPnpm(args, env = {}, cwd = root) {
  const { status, stdout, stderr, error } = spawnSync('npx', ['--yes', pnpm, ...args], {
    cwd,
    encoding: 'utf8',
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
    maxBuffer: 64 * 1024 * 1024,
    shell: process.platform === 'win32',
  })
  if (status === 0) return stdout
  process.stderr.write(`failed\n${stdout ?? ''}${stderr ?? ''}${error ? `${error.message}\n` : ''}`)
  process.exit(1)
}

function fingerprint() {
  const hash = createHash('sha256').update(process.version.split('.')[0])
  for (const name of ['pnpm-lock.yaml', 'pnpm-workspace.yaml', 'package.json'])
    hash.update(read(join(root, name)) ?? '')
  return hash.digest('hex')
}

function read(file) {
  try {
    return readFileSync(file, 'utf8')
  } catch {
    return undefined
  }
}
