import { execFile } from 'node:child_process'
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { transform as transformWithSwc } from '@swc/core'
import { transform as transformWithEsbuild } from 'esbuild'

const here = fileURLToPath(new URL('.', import.meta.url))
const root = fileURLToPath(new URL('../../../../', import.meta.url))
const run = promisify(execFile)

export type Dialect = 'standard' | 'legacy'
export type Compiler = 'tsc' | 'esbuild' | 'swc'

const tsc = () => {
  const require = createRequire(join(root, 'package.json'))
  const folder = dirname(require.resolve('typescript/package.json'))
  return join(folder, 'bin', 'tsc')
}

/** Checks the types of the application in a dialect; resolves to what the compiler has to say. */
export async function checkTypes(dialect: Dialect): Promise<string> {
  const { stdout } = await run(process.execPath, [tsc(), '--noEmit', '-p', join(here, dialect)]).catch(
    (failure: { stdout: string }) => failure,
  )
  return stdout
}

/** Compiles the application of a dialect as its users would; resolves to the module's path. */
export async function compile(compiler: Compiler, dialect: Dialect): Promise<string> {
  const folder = join(here, '.cache', `${compiler}-${dialect}`)
  await mkdir(folder, { recursive: true })
  const file = join(folder, 'chat.mjs')
  if (compiler === 'tsc') {
    const alone = ['--noResolve', '--noCheck', '--noEmit', 'false', '--outDir', folder]
    await run(process.execPath, [tsc(), '-p', join(here, dialect), ...alone])
    await rename(join(folder, 'chat.js'), file)
    return file
  }
  const source = await readFile(join(here, dialect, 'chat.ts'), 'utf8')
  await writeFile(file, await compiled[compiler](source, dialect))
  return file
}

const compiled = {
  async esbuild(source: string, dialect: Dialect): Promise<string> {
    const experimentalDecorators = dialect === 'legacy'
    const tsconfigRaw = { compilerOptions: { experimentalDecorators, useDefineForClassFields: true } }
    return (await transformWithEsbuild(source, { loader: 'ts', target: 'node20', tsconfigRaw })).code
  },
  async swc(source: string, dialect: Dialect): Promise<string> {
    const { code } = await transformWithSwc(source, {
      filename: 'chat.ts',
      configFile: false,
      swcrc: false,
      module: { type: 'es6' },
      jsc: {
        target: 'es2022',
        parser: { syntax: 'typescript', decorators: true },
        transform: dialect === 'legacy' ? { legacyDecorator: true } : { decoratorVersion: '2022-03' },
      },
    })
    return code
  },
}
