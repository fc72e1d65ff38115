/** The part of a logger that Reqscope uses; pino's and Fastify's have this shape. */
export interface Logger {
  debug(facts: object, message: string): void
  info(facts: object, message: string): void
  warn(facts: object, message: string): void
  error(facts: object, message: string): void
  child(bindings: object): Logger
  /** As pino has it: what nobody would read is not put together. */
  isLevelEnabled?(level: string): boolean
}

export function isLogger(value: unknown): value is Logger {
  const logger = value as Partial<Logger> | null
  return (['debug', 'info', 'warn', 'error', 'child'] as const).every(
    (method) => typeof logger?.[method] === 'function',
  )
}

const MAX_DEPTH = 10

/** Used until the application brings its own: warnings and errors go to stderr, one line of JSON each. */
export function stderrLogger(bindings: object = {}): Logger {
  const write = (level: string) => (facts: object, message: string) => {
    process.stderr.write(`${JSON.stringify(plain({ level, ...bindings, ...facts, message }))}\n`)
  }
  return {
    debug() {},
    info() {},
    warn: write('warn'),
    error: write('error'),
    child: (more) => stderrLogger({ ...bindings, ...more }),
  }
}

/** What JSON can hold of `value`. Never throws: a report must not fail because of the facts in it. */
function plain(value: unknown, around: readonly object[] = []): unknown {
  if (typeof value === 'bigint') return String(value)
  if (typeof value !== 'object' || value === null) return value
  if (around.includes(value)) return '[circular]'
  if (around.length === MAX_DEPTH) return '[too deep]'
  const within = [...around, value]
  try {
    if (value instanceof Error) return plainError(value, within)
    if ('toJSON' in value && typeof value.toJSON === 'function') return plain(value.toJSON(), within)
    if (Array.isArray(value)) return value.map((each) => plain(each, within))
    return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, plain(each, within)]))
  } catch {
    return '[unreadable]'
  }
}

// Not its other fields: a driver's error may hold a statement's parameters.
function plainError(error: Error & { code?: unknown; errors?: unknown }, within: readonly object[]): object {
  return {
    name: error.name,
    ...(typeof error.code === 'string' && { code: error.code }),
    message: error.message,
    stack: error.stack,
    ...(error.cause !== undefined && { cause: plain(error.cause, within) }),
    ...(Array.isArray(error.errors) && { errors: plain(error.errors, within) }),
  }
}
