import { Closers } from '../closers.ts'
import { startServers } from '../servers.ts'
import { onShutdown } from '../shutdown.ts'
import { observe } from './observation.ts'
import { reportOf } from './report.ts'
import { resultOf } from './result.ts'

export interface SmokeOptions {
  readonly seconds: number
  readonly seed: number
  /** Keep the jobs in Postgres, and start no Redis. */
  readonly withoutRedis: boolean
  /** End with the result as one line of JSON. */
  readonly json: boolean
  /** Told in a line what happens. */
  readonly log: (line: string) => void
}

/** Tests the shop under load and faults, on servers of its own, and prints what it saw. Resolves to whether all is well. */
export async function smoke({ seconds, seed, json, withoutRedis, log }: SmokeOptions): Promise<boolean> {
  const closers = new Closers()
  let interrupted = false
  onShutdown(async () => {
    interrupted = true
    await closers.close()
    log('The smoke test was interrupted.')
    process.exit(1)
  })
  try {
    const servers = await startServers({ own: true, withoutRedis, log })
    closers.add(() => servers.stop())
    const seen = await observe({ servers, seconds, seed, closers, log })
    const result = resultOf(seen)
    process.stdout.write(
      `\n${reportOf(seen)}\n\n${result.ok ? 'All is well.' : `Not all is well. Try again with --seed ${seed}`}\n`,
    )
    if (json) process.stdout.write(`${JSON.stringify(result)}\n`)
    return result.ok
  } catch (error) {
    if (!interrupted) throw error
    return false
  } finally {
    await closers.close()
  }
}
