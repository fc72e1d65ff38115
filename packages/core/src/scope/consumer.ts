import type { RateLimitState } from '../errors.ts'

/** What `scope.consume` takes. */
export interface ConsumeOptions {
  /** What is limited; together with the key it says what counts together. */
  readonly name: string
  /** Who is counted. */
  readonly key: string | number
  /** How much one key may consume in a window. */
  readonly limit: number
  /** The window, in milliseconds; it slides. */
  readonly windowMs: number
  /** How much may be consumed at once. Default: `limit`. */
  readonly burst?: number
  /** How much is consumed, a whole number. Default 1. */
  readonly cost?: number
  /** Counts and reports what it would refuse, and refuses nothing. Default false. */
  readonly shadow?: boolean
  /** What to do while the store can't be asked. Default `'local'`: this process counts alone. */
  readonly onStoreFailure?: 'allow' | 'refuse' | 'local'
  /** How long the store may take, in milliseconds. Default 100. */
  readonly storeTimeoutMs?: number
}

/** What a runtime offers its scopes for `scope.consume`. */
export type Consumer = (options: ConsumeOptions) => Promise<RateLimitState | undefined>
