import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { expect, it } from 'vitest'

const here = fileURLToPath(new URL('.', import.meta.url))
const compiler = fileURLToPath(new URL('../../../../node_modules/typescript/bin/tsc', import.meta.url))

/** What the compiler says of a program that stands beside this file, by line. */
async function diagnostics(source: string): Promise<Map<number, string>> {
  const folder = await mkdtemp(`${here}.compiled-`)
  try {
    await writeFile(
      `${folder}/program.ts`,
      source.replaceAll(/from '\.\.?\//g, (text) => text.replace("'", "'../")),
    )
    const tsconfig = { extends: '../../../tsconfig.json', include: ['program.ts'] }
    await writeFile(`${folder}/tsconfig.json`, JSON.stringify(tsconfig))
    const run = promisify(execFile)(process.execPath, [compiler, '--noEmit', '--pretty', 'false', '-p', folder])
    const { stdout } = await run.catch((error: { stdout: string }) => error)
    const all = new Map<number, string>()
    let line = 0
    for (const text of stdout.split('\n')) {
      line = Number(/program\.ts\((\d+),/.exec(text)?.[1] ?? line)
      all.set(line, `${all.get(line) ?? ''}${text}\n`)
    }
    return all
  } finally {
    await rm(folder, { recursive: true })
  }
}

it('says why a payload does not compile, at the property that is in the way', async () => {
  const source = await readFile(`${here}payload-types.ts`, 'utf8')
  const expected = source
    .split('\n')
    .flatMap((text, index) =>
      text.includes('// @ts-expect-error') ? [[index + 2, text.split('expect-error ')[1]]] : [],
    )
  const found = await diagnostics(source.replaceAll('@ts-expect-error', 'refused:'))
  expect(expected.length).toBeGreaterThan(20)
  for (const [line, why] of expected) expect(found.get(Number(line))).toContain(why)
})

it('looks fifty levels deep', async () => {
  const levels = Array.from({ length: 50 }, (_, level) => `interface L${level} { next: L${level + 1}; id: string }`)
  const program = (deepest: string) => `import { defineJob } from '../../src/jobs/index.ts'
${levels.join('\n')}
interface L50 { value: ${deepest} }
export const job = defineJob<L0>()({ name: 'deep', run: () => {} })`
  expect((await diagnostics(program('string'))).get(0) ?? '').toBe('\n')
  expect([...(await diagnostics(program('Date'))).values()].join('')).toContain('JSON turns a Date into a string')
})
