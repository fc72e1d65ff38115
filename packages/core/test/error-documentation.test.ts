import { readFile } from 'node:fs/promises'
import { expect, it } from 'vitest'

const read = (path: string) => readFile(new URL(path, import.meta.url), 'utf8')
const codesIn = (text: string) => [...new Set(text.match(/RSC_[A-Z_]+/g))].sort()

it('documents every error code, and no code that does not exist', async () => {
  expect(codesIn(await read('../../../docs/errors.md'))).toEqual(codesIn(await read('../src/errors.ts')))
})

it('documents the class and the status of every code', async () => {
  const source = await read('../src/errors.ts')
  const documentation = await read('../../../docs/errors.md')
  const classes = [...source.matchAll(/export class (\w+) extends ReqscopeError \{([\s\S]*?)\n {2}constructor/g)]
  expect(classes).toHaveLength(codesIn(source).length)
  for (const [, name, body] of classes) {
    const code = /code = '(RSC_\w+)'/.exec(body ?? '')?.[1]
    const status = /statusCode = (\d+)/.exec(body ?? '')?.[1] ?? '500'
    expect(documentation).toContain(`| \`${code}\` | \`${name}\` | ${status} |`)
  }
})
