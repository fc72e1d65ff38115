import { execFile } from 'node:child_process'
import { rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { expect, it } from 'vitest'

const root = fileURLToPath(new URL('../../..', import.meta.url))
const suites = [
  'packages/fastify-plugin/test/http-contract.test.ts',
  'packages/express-adapter/test/http-contract.test.ts',
]

/** What Fastify has and Express has not: time limits for handlers, HTTP/2 and requests without a network. */
const FASTIFYS_OWN = [
  'cancels the statement of a GET over HTTP/2 whose stream is reset',
  "cancels what runs when the framework's own handler timeout answers",
  'closes in less than 5 s with open HTTP/2 sessions',
  'ends after a request without a network',
  'ends after requests over HTTP/2',
  'lets a POST over HTTP/2 finish when its session is destroyed',
]

/** The names of the contract's tests as vitest collects them, by framework. */
async function collected(): Promise<Map<string, string[]>> {
  const file = join(tmpdir(), `reqscope-contract-${process.pid}.json`)
  const vitest = join(root, 'node_modules/vitest/vitest.mjs')
  try {
    await promisify(execFile)(process.execPath, [vitest, 'list', ...suites, `--json=${file}`], { cwd: root })
    const { default: tests } = (await import(file, { with: { type: 'json' } })) as { default: { name: string }[] }
    const byFramework = new Map<string, string[]>()
    for (const { name } of tests) {
      const [, framework = '', test = ''] = /^the HTTP contract, on (.+?) > (.*)$/.exec(name) ?? []
      byFramework.set(framework, [...(byFramework.get(framework) ?? []), test])
    }
    return byFramework
  } finally {
    await rm(file, { force: true })
  }
}

it('is the same list of test names on Fastify, Express 5 and Express 4', { timeout: 60_000 }, async () => {
  const names = await collected()
  expect([...names.keys()].sort()).toEqual(['Express 4', 'Express 5', 'Fastify'])
  const fastify = names.get('Fastify') ?? []
  const common = fastify.filter((name) => !FASTIFYS_OWN.some((own) => name.endsWith(own)))
  expect(new Set(common).size).toBe(common.length)
  expect(common.length).toBeGreaterThan(80)
  expect(names.get('Express 5')).toEqual(common)
  expect(names.get('Express 4')).toEqual(common)
  for (const own of FASTIFYS_OWN) expect(fastify.filter((name) => name.endsWith(own))).not.toEqual([])
})
