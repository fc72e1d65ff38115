import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { expect, it } from 'vitest'

const compiler = fileURLToPath(new URL('../../../node_modules/typescript/bin/tsc', import.meta.url))

// A program has one `Register`, so each of these is a program of its own.
it.each(['with-scopes', 'with-parts'])('types requests, routes and the runtime of a program: %s', async (name) => {
  const folder = fileURLToPath(new URL(`./typed-apps/${name}`, import.meta.url))
  const compiled = promisify(execFile)(process.execPath, [compiler, '--noEmit', '--pretty', 'false', '-p', folder])
  expect(await compiled.catch((error: { stdout: string }) => error)).toMatchObject({ stdout: '' })
})
