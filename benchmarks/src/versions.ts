import { existsSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'

const LIBRARIES = [
  'fastify',
  'express',
  'drizzle-orm',
  'postgres',
  'ioredis',
  'redis',
  'bullmq',
  '@fastify/rate-limit',
  '@fastify/request-context',
  'redis-semaphore',
  'redlock',
  'redlock-universal',
  'rate-limiter-flexible',
]

/** The versions of the libraries that are compared, as installed. */
export function versions(): Record<string, string> {
  const require = createRequire(import.meta.url)
  const found: Record<string, string> = {}
  for (const library of LIBRARIES) {
    const version = versionOf(require, library)
    if (version !== undefined) found[library] = version
  }
  return found
}

function versionOf(require: NodeJS.Require, library: string): string | undefined {
  // Not every package exports its package.json, so it is looked for where it would be.
  for (const folder of require.resolve.paths(library) ?? []) {
    const file = join(folder, library, 'package.json')
    if (existsSync(file)) return (JSON.parse(readFileSync(file, 'utf8')) as { version: string }).version
  }
  return undefined
}
