import { InvalidOptionError, type RateLimitState } from '../errors.ts'
import { OptionReader } from '../options.ts'
import type { ConsumeOptions } from '../scope/consumer.ts'
import { rateLimitRule } from './rate-limit-options.ts'
import type { RateLimiter } from './rate-limiter.ts'
import { RateLimits } from './rate-limits.ts'

/**
 * Consumes from a limit by name and key.
 *
 * @throws RateLimitExceededError when there is not enough left; nothing is consumed then.
 */
export async function consume(limiter: RateLimiter, options: ConsumeOptions): Promise<RateLimitState | undefined> {
  const read = new OptionReader('consume', options).onlyKnown([
    'name',
    'key',
    'limit',
    'windowMs',
    'burst',
    'cost',
    'shadow',
    'onStoreFailure',
    'storeTimeoutMs',
  ])
  if (read.string('name', undefined) === undefined) {
    throw new InvalidOptionError('consume.name', undefined, 'a string that is not empty')
  }
  const { key, ...rest } = options
  if ((typeof key !== 'string' || key === '') && !Number.isFinite(key)) {
    throw new InvalidOptionError('consume.key', key, 'a string that is not empty, or a number')
  }
  const rule = rateLimitRule<undefined>({ ...rest, key: () => key }, 'consume')
  const windows = await new RateLimits([rule], 'consume', () => '').windows(undefined)
  const decision = await limiter.decide(windows)
  if (decision.tag === 'refused') throw decision.toError()
  return decision.states[0]
}
