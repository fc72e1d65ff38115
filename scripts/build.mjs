// Builds the published packages into their dist folders, each after those it depends on.
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { command } from './command.mjs'
import { root } from './install.mjs'
import { publishedPackages } from './workspace.mjs'

export async function build() {
  const packages = publishedPackages()
  for (const { folder } of packages) {
    rmSync(join(root, folder, 'dist'), { recursive: true, force: true })
    await command('tsc', ['-p', `${folder}/tsconfig.build.json`])
  }
  return packages
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  await build().then(
    (packages) => console.log(`built ${packages.map(({ name }) => name).join(', ')}`),
    (error) => {
      console.error(error.message)
      process.exitCode = 1
    },
  )
}
