// Looks at the packages as users get them: built, packed, and judged by publint and attw.
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { build } from './build.mjs'
import { CommandFailed, command } from './command.mjs'
import { pnpm, root } from './install.mjs'

export async function checkPackages() {
  const packages = await build()
  const packed = mkdtempSync(join(tmpdir(), 'reqscope-packed-'))
  try {
    for (const { folder } of packages) {
      await command('npx', ['--yes', pnpm, 'pack', '--pack-destination', packed], { cwd: join(root, folder) })
    }
    const failures = []
    for (const tarball of readdirSync(packed).map((file) => join(packed, file))) {
      for (const [tool, ...args] of [
        ['publint', 'run', tarball, '--strict', '--pack', 'false'],
        ['attw', tarball, '--profile', 'esm-only', '--no-emoji', '--no-color'],
      ]) {
        await command(tool, args).catch((error) => failures.push(`${tool} ${tarball}:\n${error.message}`))
      }
    }
    if (failures.length > 0) throw new CommandFailed(failures.join('\n'))
    return packages.map(({ name }) => name).join(', ')
  } finally {
    rmSync(packed, { recursive: true, force: true })
  }
}
