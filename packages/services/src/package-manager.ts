import { spawnSync } from 'node:child_process'

export interface PackageManager {
  name: string
  /** What is run, for people. */
  command: string
  /** Runs it, with its output kept for a failure. Returns what went wrong. */
  install(): string | undefined
}

const MANAGERS = [
  // RUNLEVEL=1: Debian starts no service after the installation. Where it does all the same, nobody here relies on it.
  {
    name: 'apt-get',
    needsRoot: true,
    steps: ['apt-get update', 'apt-get install -y --no-install-recommends redis-server'],
  },
  { name: 'apk', needsRoot: true, steps: ['apk add --no-cache redis'] },
  { name: 'brew', needsRoot: false, steps: ['brew install redis'] },
]

const ENVIRONMENT = { DEBIAN_FRONTEND: 'noninteractive', RUNLEVEL: '1', HOMEBREW_NO_AUTO_UPDATE: '1' }

/** The system's package manager, where there is one that this user can install with. */
export function packageManager(): PackageManager | undefined {
  const manager = MANAGERS.find(({ name }) => exists(name))
  if (!manager) return undefined
  const isRoot = process.getuid?.() === 0
  if (manager.needsRoot && !isRoot && !exists('sudo')) return undefined
  // Without a terminal sudo must not wait for a password.
  const sudo = manager.needsRoot && !isRoot ? `sudo ${process.stdin.isTTY ? '' : '-n '}` : ''
  const steps = manager.steps.map((step) => `${sudo}${step}`)
  return { name: manager.name, command: steps.at(-1) as string, install: () => steps.map(run).findLast(Boolean) }
}

function run(step: string): string | undefined {
  const withEnvironment = step.replace(/^(sudo (-n )?)?/, (sudo) => `${sudo}env ${assignments()} `)
  const { status, stdout, stderr, error } = spawnSync('sh', ['-c', withEnvironment], {
    encoding: 'utf8',
    stdio: [process.stdin.isTTY ? 'inherit' : 'ignore', 'pipe', 'pipe'],
  })
  if (status === 0) return undefined
  return `\`${step}\`: ${error?.message ?? `${stdout}${stderr}`.trim().split('\n').slice(-5).join('\n  ')}`
}

function assignments(): string {
  return Object.entries(ENVIRONMENT)
    .map(([name, value]) => `${name}=${value}`)
    .join(' ')
}

function exists(program: string): boolean {
  return spawnSync('sh', ['-c', `command -v ${program}`], { stdio: 'ignore' }).status === 0
}
