import { accessSync, constants } from 'node:fs'
import { delimiter, join } from 'node:path'
import { confirm } from './confirm.ts'
import { withInstallLock } from './install-lock.ts'
import { type PackageManager, packageManager } from './package-manager.ts'

export interface Installing {
  /** Install without asking. */
  install: boolean
  log: (line: string) => void
}

/** A Redis or Valkey server's program: what is there, else what can be installed, else one that is compiled. */
export async function redisBinary({ install, log }: Installing): Promise<string> {
  const present = findRedis()
  if (present) return present
  return withInstallLock(async () => {
    // Another process may have installed it while this one waited for the lock.
    const meanwhile = findRedis()
    if (meanwhile) return meanwhile
    const failures: string[] = []
    const manager = packageManager()
    if (manager && (await mayInstall(manager, install))) {
      log(`Redis: not found, installing it with ${manager.name} …`)
      const failure = manager.install()
      const installed = findRedis()
      if (installed) return installed
      failures.push(`${manager.name} failed: ${failure ?? 'it left no redis-server in the PATH'}`)
    }
    log('Redis: not found, compiling it (once; this takes a minute or two) …')
    return compile().catch((error: Error) => {
      failures.push(`compiling failed: ${error.message}`)
      throw new Error(whatToDo(failures))
    })
  }, log)
}

export function findRedis(path = process.env.PATH ?? ''): string | undefined {
  const folders = [...path.split(delimiter), '/usr/bin', '/usr/local/bin', '/opt/homebrew/bin'].filter(Boolean)
  const candidates = ['redis-server', 'valkey-server'].flatMap((name) => folders.map((folder) => join(folder, name)))
  return candidates.find(isExecutable)
}

/** Root without a terminal is a container or CI: nobody to ask, nothing to break. */
async function mayInstall(manager: PackageManager, install: boolean): Promise<boolean> {
  if (install) return true
  if (process.stdin.isTTY && process.stderr.isTTY) {
    return confirm(`Reqscope's examples and tests need Redis. Install it now with \`${manager.command}\`?`)
  }
  return process.getuid?.() === 0
}

/** redis-memory-server downloads Redis' source and compiles it into its cache. */
async function compile(): Promise<string> {
  process.env.REDISMS_DISABLE_POSTINSTALL = '1'
  const { RedisBinary } = await import('redis-memory-server')
  return RedisBinary.getPath()
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK)
    return true
  } catch {
    return false
  }
}

function whatToDo(failures: string[]): string {
  const remedy: Partial<Record<NodeJS.Platform, string>> = {
    linux: 'sudo apt-get install redis-server   (Debian, Ubuntu)\n  sudo apk add redis   (Alpine)',
    darwin: 'brew install redis',
    win32: 'run this in WSL, where `sudo apt-get install redis-server` works',
  }
  return [
    'No Redis was found, and it could not be set up.',
    `Install one:\n  ${remedy[process.platform] ?? 'with your package manager'}`,
    'or name one that runs: REDIS_URL=redis://localhost:6379',
    ...failures.map((failure) => `- ${failure}`),
  ].join('\n')
}
