/** The part of a logger that Reqscope uses; pino's and Fastify's have this shape. */
export interface Logger {
  debug(facts: object, message: string): void
  info(facts: object, message: string): void
  warn(facts: object, message: string): void
  error(facts: object, message: string): void
  child(bindings: object): Logger
}

export function isLogger(value: unknown): value is Logger {
  const logger = value as Partial<Logger> | null
  return (['debug', 'info', 'warn', 'error', 'child'] as const).every(
    (method) => typeof logger?.[method] === 'function',
  )
}

/** Used until the application brings its own: warnings and errors go to stderr, one line of JSON each. */
export function stderrLogger(bindings: object = {}): Logger {
  const write = (level: string) => (facts: object, message: string) => {
    process.stderr.write(`${JSON.stringify({ level, ...bindings, ...facts, message }, errorsAsText)}\n`)
  }
  return {
    debug() {},
    info() {},
    warn: write('warn'),
    error: write('error'),
    child: (more) => stderrLogger({ ...bindings, ...more }),
  }
}

function errorsAsText(_key: string, value: unknown): unknown {
  return value instanceof Error ? { name: value.name, message: value.message, stack: value.stack } : value
}
