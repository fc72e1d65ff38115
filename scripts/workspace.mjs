import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { root } from './install.mjs'

/** The packages of the workspace: `{ name, folder, private, manifest }`, folders relative to the root. */
export function workspacePackages() {
  const groups = ['packages', 'examples'].flatMap((group) => children(group).map((name) => `${group}/${name}`))
  return [...groups, 'benchmarks']
    .filter((folder) => existsSync(join(root, folder, 'package.json')))
    .map((folder) => {
      const manifest = JSON.parse(readFileSync(join(root, folder, 'package.json'), 'utf8'))
      return { name: manifest.name, folder, private: manifest.private === true, manifest }
    })
}

/** Published packages, each after those it depends on. */
export function publishedPackages() {
  const published = workspacePackages().filter((entry) => !entry.private)
  const ordered = []
  const visit = (entry) => {
    if (ordered.includes(entry)) return
    published.filter(({ name }) => entry.manifest.dependencies?.[name]).forEach(visit)
    ordered.push(entry)
  }
  published.forEach(visit)
  return ordered
}

function children(group) {
  return existsSync(join(root, group)) ? readdirSync(join(root, group)) : []
}
