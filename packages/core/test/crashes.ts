import { onTestFinished } from 'vitest'

/** What would have ended a process that does not listen: uncaught exceptions and unhandled rejections, while the test runs. */
export function crashes(): unknown[] {
  const found: unknown[] = []
  const note = (error: unknown) => void found.push(error)
  for (const event of ['uncaughtException', 'unhandledRejection'] as const) {
    process.on(event, note)
    onTestFinished(() => void process.off(event, note))
  }
  return found
}
