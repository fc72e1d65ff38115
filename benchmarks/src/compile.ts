import { execFile } from 'node:child_process'
import { cp, mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

const root = new URL('../../', import.meta.url)
const app = new URL('benchmarks/.cache/app/', root)
const run = promisify(execFile)

/**
 * Compiles packages and candidates to plain JavaScript, as users get them. A loader that compiles on the fly would be
 * measured too: it wraps every function to keep its name.
 */
export async function compile(): Promise<void> {
  await rm(app, { recursive: true, force: true })
  for (const folder of ['core', 'fastify-plugin', 'express-adapter']) {
    await rm(new URL(`packages/${folder}/dist`, root), { recursive: true, force: true })
    await typescript(`packages/${folder}/tsconfig.build.json`)
    await install(folder)
  }
  await typescript('benchmarks/tsconfig.build.json')
}

async function install(folder: string): Promise<void> {
  const source = new URL(`packages/${folder}/`, root)
  const manifest = JSON.parse(await readFile(new URL('package.json', source), 'utf8'))
  const target = new URL(`node_modules/${manifest.name}/`, app)
  await mkdir(target, { recursive: true })
  await cp(new URL('dist', source), new URL('dist', target), { recursive: true })
  await writeFile(new URL('package.json', target), JSON.stringify({ ...manifest, ...manifest.publishConfig }))
}

async function typescript(project: string): Promise<void> {
  const compiler = fileURLToPath(new URL('node_modules/typescript/bin/tsc', root))
  try {
    await run(process.execPath, [compiler, '-p', fileURLToPath(new URL(project, root))])
  } catch (error) {
    throw new Error(`${project} does not compile:\n${(error as { stdout?: string }).stdout ?? error}`)
  }
}
