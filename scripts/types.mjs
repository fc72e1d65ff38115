// Type-checks every program of the workspace: one per tsconfig.json, so that each example has its own `Register`.
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { CommandFailed, command } from './command.mjs'
import { root } from './install.mjs'
import { workspacePackages } from './workspace.mjs'

export async function checkTypes() {
  const programs = ['.', ...workspacePackages().map(({ folder }) => folder)].filter((folder) =>
    existsSync(join(root, folder, 'tsconfig.json')),
  )
  const failures = []
  for (const folder of programs) {
    await command('tsc', ['--noEmit', '-p', folder]).catch((error) => failures.push(`${folder}:\n${error.message}`))
  }
  if (failures.length > 0) throw new CommandFailed(failures.join('\n'))
  return `${programs.length} programs`
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  await checkTypes().then(
    (summary) => console.log(summary),
    (error) => {
      console.error(error.message)
      process.exitCode = 1
    },
  )
}
