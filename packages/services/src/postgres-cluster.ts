import { execFile } from 'node:child_process'
import { chownSync, existsSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { selfSignedCertificate } from './certificate.ts'
import type { PostgresBinaries } from './postgres-binaries.ts'
import type { Owner } from './work-folder.ts'

export const SUPERUSER = 'postgres'
export const PASSWORD = 'reqscope'

const run = promisify(execFile)

/** Runs initdb once per folder. A run that was cut off leaves nothing that looks like a cluster. */
export async function createCluster(
  folder: string,
  { initdb }: PostgresBinaries,
  owner: Owner | undefined,
): Promise<string> {
  const data = join(folder, 'data')
  if (existsSync(data)) return data
  const unfinished = join(folder, 'data.unfinished')
  rmSync(unfinished, { recursive: true, force: true })
  const passwordFile = ownedFile(join(folder, 'password'), `${PASSWORD}\n`, owner)
  await run(
    initdb,
    [
      ...['-D', unfinished, '-U', SUPERUSER, `--pwfile=${passwordFile}`, '--auth=scram-sha-256', '--encoding=UTF8'],
      ...['--locale=C', '--locale-provider=builtin', '--builtin-locale=C.UTF-8', '--no-sync', '--no-instructions'],
    ],
    { ...owner, cwd: folder, env: { PATH: process.env.PATH, LC_ALL: 'C', TZ: 'UTC' } },
  )
  rmSync(passwordFile)
  renameSync(unfinished, data)
  return data
}

/** How a server treats connections without TLS: `'offered'` lets them in, `'required'` refuses them. */
export type Tls = 'offered' | 'required'

/** Writes the key, the certificate and who may connect; returns the settings that use them and the certificate. */
export async function prepareTls(folder: string, tls: Tls, owner: Owner | undefined) {
  const { key, certificate } = await selfSignedCertificate()
  const file = (name: string, content: string) => ownedFile(join(folder, name), content, owner)
  const settings = {
    ssl: 'on',
    ssl_key_file: file('server.key', key),
    ssl_cert_file: file('server.crt', certificate),
    hba_file: file('hba.conf', `${tls === 'required' ? 'hostssl' : 'host'} all all all scram-sha-256\n`),
  }
  return { settings, certificate }
}

function ownedFile(path: string, content: string, owner: Owner | undefined): string {
  writeFileSync(path, content, { mode: 0o600 })
  if (owner) chownSync(path, owner.uid, owner.gid)
  return path
}
