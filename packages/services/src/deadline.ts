import { setTimeout as sleep } from 'node:timers/promises'

/** Waits for `pending`, but calls `onLate` once when it takes longer than `ms`. */
export async function within<T>(pending: Promise<T>, ms: number, onLate: () => void): Promise<T | undefined> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<undefined>((resolve) => {
    timer = setTimeout(() => {
      onLate()
      resolve(undefined)
    }, ms)
  })
  try {
    return await Promise.race([pending, late])
  } finally {
    clearTimeout(timer)
  }
}

export interface Patience {
  forMs?: number
  everyMs?: number
  /** Whether another try may help. */
  retryable?: (error: unknown) => boolean
}

/** Tries again, every few milliseconds, for as long as `attempt` rejects; gives up with its last error after `forMs`. */
export async function eventually<T>(
  attempt: () => PromiseLike<T> | T,
  { forMs = 10_000, everyMs = 10, retryable = () => true }: Patience = {},
): Promise<T> {
  const deadline = performance.now() + forMs
  for (;;) {
    try {
      return await attempt()
    } catch (error) {
      if (!retryable(error) || performance.now() > deadline) throw error
      await sleep(everyMs)
    }
  }
}
