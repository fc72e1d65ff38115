/**
 * Turns a Markdown document into the TypeScript modules its code blocks describe (the rules are in CONTRIBUTING.md).
 * Each module is `{ file, lines: [{ text, from }] }`, where `from` is the line of the document.
 */
export function extractModules(markdown) {
  const modules = new Map()
  let alone = 0
  for (const { info, lines } of codeBlocks(markdown)) {
    if (info.includes('ignore')) continue
    const named = /^\/\/ (\S+\.tsx?)\b/.exec(lines[0]?.text ?? '')?.[1]
    if (info.includes('alone')) alone += 1
    const file = named ?? (info.includes('alone') ? `alone-${alone}.ts` : 'document.ts')
    if (!modules.has(file)) modules.set(file, { file, lines: [], imported: new Set() })
    const module = modules.get(file)
    module.lines.push(...withoutRepeatedImports(lines, module.imported))
  }
  return [...modules.values()]
}

/** Fenced ```ts blocks, and hidden ones in `<!-- ts … -->`. */
function* codeBlocks(markdown) {
  let block
  for (const [index, text] of markdown.split('\n').entries()) {
    if (block) {
      if (block.ends(text)) {
        if (block.wanted) yield block
        block = undefined
      } else block.lines.push({ text: text.slice(block.indent), from: index + 1 })
      continue
    }
    const fence = /^(\s*)(```+|~~~+)(.*)$/.exec(text)
    const hidden = /^<!-- (ts\b.*)$/.exec(text)
    if (fence) {
      const [language, ...info] = fence[3].trim().split(/\s+/)
      const ends = (line) => line.trim() === fence[2]
      block = { info, lines: [], indent: fence[1].length, wanted: /^(ts|typescript)$/.test(language), ends }
    } else if (hidden && !hidden[1].includes('-->')) {
      block = {
        info: hidden[1].split(/\s+/).slice(1),
        lines: [],
        indent: 0,
        wanted: true,
        ends: (line) => line.trim() === '-->',
      }
    }
  }
}

/** A reader wants each block to show its imports; a module must not have them twice. Line numbers stay right. */
function withoutRepeatedImports(lines, imported) {
  const text = lines.map((line) => line.text).join('\n')
  const pruned = text.replace(
    /^import (type )?\{([^}]*)\} from ('[^']+'|"[^"]+")/gm,
    (statement, type, names, from) => {
      const fresh = names
        .split(',')
        .map((name) => name.trim())
        .filter((name) => name && !imported.has(`${name} ${moduleOf(from)}`))
      for (const name of fresh) imported.add(`${name} ${moduleOf(from)}`)
      const kept = fresh.length > 0 ? `import ${type ?? ''}{ ${fresh.join(', ')} } from ${from}` : ''
      return kept + '\n'.repeat(statement.split('\n').length - 1)
    },
  )
  const whole = pruned.replace(/^import (?:type )?(?:\w+|\* as \w+) from .+$/gm, (statement) => {
    if (imported.has(statement)) return ''
    imported.add(statement)
    return statement
  })
  return whole.split('\n').map((line, index) => ({ text: line, from: lines[index].from }))
}

/** './scopes.js' and './scopes.ts' are one module. */
function moduleOf(specifier) {
  return specifier.slice(1, -1).replace(/\.[jt]s$/, '')
}
