import { setTimeout as delay } from 'node:timers/promises'
import { publish } from '../events.ts'

const RETRYABLE: ReadonlySet<unknown> = new Set(['40001', '40P01'])
const FIRST_RETRY_MS = 10
const LAST_RETRY_MS = 1_000

/** Whether a transaction failed because of another one, so that running it again can help. */
export function isRetryable(error: unknown): boolean {
  for (let each = error, depth = 0; typeof each === 'object' && each !== null && depth < 10; depth++) {
    if (RETRYABLE.has((each as { code?: unknown }).code)) return true
    each = (each as { cause?: unknown }).cause
  }
  return false
}

/** Waits before the next attempt: twice as long each time up to a second, and at random between half of that and all. */
export async function beforeRetry(
  attempt: number,
  cause: unknown,
  scope: { readonly id: string; readonly kind: string; readonly name: string; readonly signal: AbortSignal },
): Promise<void> {
  publish('reqscope:transaction:retried', () => ({
    scope: { id: scope.id, kind: scope.kind, name: scope.name },
    attempt,
    cause,
  }))
  const longest = Math.min(LAST_RETRY_MS, FIRST_RETRY_MS * 2 ** attempt)
  await delay(longest * (0.5 + Math.random() / 2), undefined, { signal: scope.signal }).catch(() => {
    throw cause
  })
}
