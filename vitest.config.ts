import { existsSync, readdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { defineConfig } from 'vitest/config'

const here = fileURLToPath(new URL('.', import.meta.url))

/** Every package and example with tests is a project, named after its folder. */
const projects = ['packages', 'examples'].flatMap((group) =>
  folders(`${here}${group}`)
    .filter((folder) => existsSync(`${here}${group}/${folder}/test`))
    .map((name) => ({
      test: {
        name,
        root: here,
        include: [`${group}/${name}/test/**/*.test.ts`],
        pool: 'forks' as const,
        testTimeout: 20_000,
        hookTimeout: 60_000,
      },
    })),
)

export default defineConfig({
  test: {
    projects,
    // Once per run, for all projects: one Postgres and one Redis.
    globalSetup: ['./packages/services/src/global-setup.ts'],
    teardownTimeout: 20_000,
    reporters: ['default', './scripts/tally-reporter.mjs'],
  },
})

function folders(path: string): string[] {
  return existsSync(path) ? readdirSync(path) : []
}
