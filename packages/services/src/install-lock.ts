import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { eventually } from './deadline.ts'

class LockedByAnother extends Error {}

/** One process of this machine installs at a time: test processes and clones that start together wait for the first. */
export async function withInstallLock<T>(work: () => Promise<T>, log: (line: string) => void): Promise<T> {
  const file = join(tmpdir(), 'reqscope-install.lock')
  let told = false
  await eventually(() => acquire(file), {
    forMs: 600_000,
    everyMs: 200,
    retryable: (error) => {
      if (error instanceof LockedByAnother && !told) log(error.message)
      told = true
      return error instanceof LockedByAnother
    },
  })
  try {
    return await work()
  } finally {
    rmSync(file, { force: true })
  }
}

function acquire(file: string): void {
  try {
    writeFileSync(file, String(process.pid), { flag: 'wx' })
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
    const holder = holderOf(file)
    if (holder !== undefined && !isAlive(holder)) rmSync(file, { force: true })
    throw new LockedByAnother(`Waiting for process ${holder ?? '?'}, which installs (${file}) …`, { cause: error })
  }
}

function holderOf(file: string): number | undefined {
  try {
    return Number(readFileSync(file, 'utf8')) || undefined
  } catch {
    return undefined
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}
