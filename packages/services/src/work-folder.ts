import { createHash } from 'node:crypto'
import { chownSync, mkdirSync, mkdtempSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'

export interface Owner {
  uid: number
  gid: number
}

/**
 * The folder a server works in: the one asked for, or a fresh temporary one. With an owner, that user must be able to
 * reach it; a checkout under /root is closed to everybody else, so the data then lives in the temporary folder, under a
 * name that stays the same for the same checkout.
 */
export function workFolder(service: string, wanted: string | undefined, owner: Owner | undefined): string {
  const folder =
    wanted === undefined ? mkdtempSync(join(temporaryFolder(owner), `reqscope-${service}-`)) : resolve(wanted)
  const reachable = owner && !isOpenToEveryone(dirname(folder)) ? substitute(service, folder, owner) : folder
  mkdirSync(reachable, { recursive: true, mode: 0o700 })
  if (owner) chownSync(reachable, owner.uid, owner.gid)
  return reachable
}

/** Whether any user can get at `path`: it and all folders above it are open to others. */
export function isOpenToEveryone(path: string): boolean {
  for (let folder = resolve(path); ; folder = dirname(folder)) {
    const stats = statSync(folder, { throwIfNoEntry: false })
    const needed = stats?.isDirectory() ? 0o001 : 0o005
    if (stats && (stats.mode & needed) !== needed) return false
    if (folder === dirname(folder)) return true
  }
}

export function temporaryFolder(owner: Owner | undefined): string {
  return owner && !isOpenToEveryone(tmpdir()) ? '/tmp' : tmpdir()
}

function substitute(service: string, folder: string, owner: Owner): string {
  const name = createHash('sha256').update(folder).digest('hex').slice(0, 12)
  return join(temporaryFolder(owner), `reqscope-${service}-of-${name}`)
}
