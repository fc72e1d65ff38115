// Compiles the code blocks of README.md and docs/**/*.md, each document as a program of its own.
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { CommandFailed, command } from '../command.mjs'
import { root } from '../install.mjs'
import { extractModules } from './extract.mjs'

const here = fileURLToPath(new URL('.', import.meta.url))
const extracted = join(here, 'extracted')

export async function checkDocBlocks() {
  rmSync(extracted, { recursive: true, force: true })
  const failures = []
  let checked = 0
  for (const document of documents()) {
    const modules = extractModules(readFileSync(join(root, document), 'utf8'))
    if (modules.length === 0) continue
    checked += 1
    const folder = join(extracted, document)
    writeProgram(folder, modules)
    await command('tsc', ['--noEmit', '--pretty', 'false', '-p', '.'], { cwd: folder }).catch((error) =>
      failures.push(inTermsOf(document, modules, error.message)),
    )
  }
  if (failures.length > 0) throw new CommandFailed(failures.join('\n'))
  return `${checked} documents with code`
}

function documents() {
  const docs = existsSync(join(root, 'docs')) ? readdirSync(join(root, 'docs'), { recursive: true }) : []
  return ['README.md', ...docs.map((file) => join('docs', file))].filter(
    (file) => file.endsWith('.md') && existsSync(join(root, file)),
  )
}

function writeProgram(folder, modules) {
  mkdirSync(folder, { recursive: true })
  // A named block may be a file of a subfolder. `export {}`: every block is a module, with or without imports.
  for (const { file, lines } of modules) {
    mkdirSync(dirname(join(folder, file)), { recursive: true })
    writeFileSync(join(folder, file), `${lines.map(({ text }) => text).join('\n')}\nexport {}\n`)
  }
  writeFileSync(
    join(folder, 'tsconfig.json'),
    JSON.stringify({ extends: join(here, 'tsconfig.json'), include: ['**/*.ts'] }),
  )
}

/** `document.ts(3,7): error …` becomes `README.md:41:7: error …`. */
function inTermsOf(document, modules, output) {
  return output.replace(/^(\S+?)\((\d+),(\d+)\)/gm, (place, file, line, column) => {
    const from = modules.find((module) => module.file === file)?.lines[Number(line) - 1]?.from
    return from ? `${document}:${from}:${column}` : place
  })
}
