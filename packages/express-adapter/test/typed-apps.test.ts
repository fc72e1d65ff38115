import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { expect, it } from 'vitest'

const compiler = fileURLToPath(new URL('../../../node_modules/typescript/bin/tsc', import.meta.url))

// A program has one `Register`, so this is a program of its own.
it('types requests, routes and the runtime of a program', async () => {
  const folder = fileURLToPath(new URL('./typed-apps/with-scopes', import.meta.url))
  const compiled = promisify(execFile)(process.execPath, [compiler, '--noEmit', '--pretty', 'false', '-p', folder])
  expect(await compiled.catch((error: { stdout: string }) => error)).toMatchObject({ stdout: '' })
})
