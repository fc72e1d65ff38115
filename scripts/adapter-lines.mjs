// How thin the adapters are: the lines of each, and of what they share. Comments and blank lines count.
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { root } from './install.mjs'

const FOLDERS = {
  'Fastify plugin': 'packages/fastify-plugin/src',
  'Express adapter': 'packages/express-adapter/src',
  'node:http adapter of docs/adapters.md': 'packages/express-adapter/test/node-http/server.ts',
  'shared, core/http': 'packages/core/src/http',
}

for (const [name, path] of Object.entries(FOLDERS)) {
  const files = path.endsWith('.ts') ? [path] : readdirSync(join(root, path)).map((file) => join(path, file))
  const lines = files.reduce((sum, file) => sum + readFileSync(join(root, file), 'utf8').split('\n').length - 1, 0)
  console.log(`${String(lines).padStart(6)}  ${name} (${path})`)
}
