import { onTestFinished } from 'vitest'
import { createScopes, defineResource, type Outcome, type Resource, type Scopes } from '../../src/index.ts'
import { type LogLine, memoryLogger } from '../memory-logger.ts'

export interface Notebook {
  write(text: string): string
}

export type NotebookScopes = Scopes<{ notebook: Resource<Notebook> }> & {
  readonly logs: LogLine[]
  /** What was written, in all scopes. */
  readonly pages: string[]
  /** How the scopes ended whose notebook was released. */
  readonly released: Outcome[]
}

/** A runtime whose scopes have a `notebook`: a handle that needs no server. Closed after the test. */
export function notebookScopes(options: { settleTimeoutMs?: number } = {}): NotebookScopes {
  const { logger, logs } = memoryLogger()
  const pages: string[] = []
  const released: Outcome[] = []
  const notebook = defineResource<Notebook>({
    handle: () => ({
      write(text) {
        pages.push(text)
        return text
      },
    }),
    release: (_handle, outcome) => void released.push(outcome),
  })
  const scopes = createScopes({ resources: { notebook }, logger, ...options })
  onTestFinished(() => scopes.close({ timeoutMs: 100 }))
  return Object.assign(scopes, { logs, pages, released })
}
