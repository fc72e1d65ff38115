import type { Logger } from '../src/index.ts'

export interface LogLine {
  readonly level: 'debug' | 'info' | 'warn' | 'error'
  readonly message: string
  readonly facts: Record<string, unknown>
}

/** A logger that keeps what it is told. */
export function memoryLogger(): { logger: Logger; logs: LogLine[] } {
  const logs: LogLine[] = []
  const withBindings = (bindings: object): Logger => {
    const at = (level: LogLine['level']) => (facts: object, message: string) => {
      logs.push({ level, message, facts: { ...bindings, ...facts } })
    }
    return {
      debug: at('debug'),
      info: at('info'),
      warn: at('warn'),
      error: at('error'),
      child: (more) => withBindings({ ...bindings, ...more }),
    }
  }
  return { logger: withBindings({}), logs }
}
