import { mkdir } from 'node:fs/promises'
import { basename } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'

/** Compiles a program into one file, so that it starts at once in however many processes; resolves to its path. */
export async function compiled(program: URL): Promise<string> {
  const folder = fileURLToPath(new URL('.cache/', import.meta.url))
  await mkdir(folder, { recursive: true })
  const outfile = `${folder}${basename(program.pathname, '.ts')}-${process.pid}.mjs`
  await build({
    entryPoints: [fileURLToPath(program)],
    outfile,
    bundle: true,
    format: 'esm',
    platform: 'node',
    target: 'node20',
    external: ['ioredis', 'postgres', 'drizzle-orm'],
  })
  return outfile
}
