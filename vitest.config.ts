import { existsSync, readdirSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { fileURLToPath } from 'node:url'
import { transform } from 'esbuild'
import { defineConfig } from 'vitest/config'

const here = fileURLToPath(new URL('.', import.meta.url))

/** Vitest leaves standard decorators as they are, and Node does not know them; tsc, tsx and esbuild lower them. */
const decorators = {
  name: 'lower-decorators',
  enforce: 'pre' as const,
  async transform(code: string, id: string) {
    if (!/\.ts$/.test(id) || id.includes('/node_modules/') || !/^ *@[A-Z]\w*\(/m.test(code)) return undefined
    const lowered = await transform(code, { loader: 'ts', target: 'node20', sourcefile: id, sourcemap: true })
    return { code: lowered.code, map: lowered.map }
  },
}

/** Every package and example with tests is a project, named after its folder. */
const projects = ['packages', 'examples'].flatMap((group) =>
  folders(`${here}${group}`)
    .filter((folder) => existsSync(`${here}${group}/${folder}/test`))
    .map((name) => ({
      plugins: [decorators],
      test: {
        name,
        root: here,
        include: [`${group}/${name}/test/**/*.test.ts`],
        pool: 'forks' as const,
        // Under `test` a scope that repeats a statement is refused it, and many of these tests do just that.
        env: { NODE_ENV: 'development' },
        testTimeout: 20_000,
        hookTimeout: 60_000,
      },
    })),
)

export default defineConfig({
  test: {
    projects,
    // Files wait for servers more than they compute: two of them keep two cores busy, also where vitest would run one.
    maxWorkers: Math.max(2, availableParallelism() - 1),
    // Once per run, for all projects: one Postgres and one Redis.
    globalSetup: ['./packages/services/src/global-setup.ts'],
    teardownTimeout: 20_000,
    reporters: ['default', './scripts/tally-reporter.mjs'],
  },
})

function folders(path: string): string[] {
  return existsSync(path) ? readdirSync(path) : []
}
