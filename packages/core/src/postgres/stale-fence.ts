import { LockLostError } from '../errors.ts'

/** What a statement fails with, in the message of an error of the server, where a fence in it is stale. One word to a text search. */
export const STALE_FENCE = 'reqscopestalefence'

/** The error of ours where the server's says that a fence is stale. */
export function staleFence(error: unknown): LockLostError | undefined {
  const { code, message } = error as { code?: unknown; message?: unknown }
  if (code !== '22P02' || typeof message !== 'string' || !message.includes(STALE_FENCE)) return undefined
  return new LockLostError({ keys: [], reason: 'stale-fence', cause: error })
}
