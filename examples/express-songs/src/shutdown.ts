import closeWithGrace from 'close-with-grace'

const GRACE_MS = 20_000
const SAME_CTRL_C_MS = 1_000

/**
 * Runs `close` once, on Ctrl-C, SIGTERM or a crash, and ends the process then. Returns a function that does the same.
 *
 * A terminal sends Ctrl-C to every process of the command, and npm and tsx pass theirs on, so one Ctrl-C arrives here
 * several times. close-with-grace would take the second one for an impatient user; that is one who waits a moment first.
 */
export function onShutdown(close: () => Promise<void>): () => void {
  const grace = closeWithGrace({ delay: GRACE_MS, skip: ['SIGINT', 'SIGTERM', 'beforeExit'] }, async ({ err }) => {
    if (err) console.error(err)
    await close()
  })
  let firstSignalAt: number | undefined
  const onSignal = (): void => {
    if (firstSignalAt === undefined) {
      firstSignalAt = performance.now()
      grace.close()
    } else if (performance.now() - firstSignalAt > SAME_CTRL_C_MS) {
      process.exit(1)
    }
  }
  process.on('SIGINT', onSignal).on('SIGTERM', onSignal)
  return grace.close
}
