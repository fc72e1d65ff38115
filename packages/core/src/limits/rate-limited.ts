import { InvalidOptionError } from '../errors.ts'
import { OptionReader } from '../options.ts'
import type { ConsumeOptions } from '../scope/consumer.ts'
import { requireCurrentScope } from '../scope/current.ts'
import { rateLimitRule } from './rate-limit-options.ts'

/** What {@link rateLimited} takes: as `scope.consume`, with functions of the arguments. */
export interface RateLimitedOptions<Args extends readonly unknown[]>
  extends Omit<ConsumeOptions, 'name' | 'key' | 'cost'> {
  /** What is limited. Default: the function's name. */
  readonly name?: string
  /** Who is counted, of the arguments of a call. */
  readonly key: (...args: Args) => string | number
  /** How much a call takes. Default 1. */
  readonly cost?: number | ((...args: Args) => number)
}

/**
 * The function, limited: each call first consumes from the current scope's limits.
 *
 * @throws InvalidOptionError naming the option that is wrong; the calls reject with RateLimitExceededError, and with
 *   NoActiveScopeError outside of every scope.
 * @example
 * const exportOrders = rateLimited({ name: 'export', key: (userId: string) => userId, limit: 5, windowMs: 60_000 }, writeExport)
 */
export function rateLimited<This, Args extends unknown[], Result>(
  options: RateLimitedOptions<Args>,
  fn: (this: This, ...args: Args) => Result,
): (this: This, ...args: Args) => Promise<Awaited<Result>> {
  const read = new OptionReader('rateLimited', options)
  const name = read.string('name', undefined) ?? fn.name
  if (name === '') throw new InvalidOptionError('rateLimited.name', undefined, 'given: the function has no name')
  if (typeof options.key !== 'function') throw new InvalidOptionError('rateLimited.key', options.key, 'a function')
  const { key, cost, ...limits } = options
  read.onlyKnown(['name', 'key', 'limit', 'windowMs', 'burst', 'cost', 'shadow', 'onStoreFailure', 'storeTimeoutMs'])
  rateLimitRule({ ...limits, name, ...(typeof cost !== 'function' && cost !== undefined && { cost }) }, 'rateLimited')
  return async function limited(this: This, ...args: Args): Promise<Awaited<Result>> {
    await requireCurrentScope(`${name}, which is rate limited,`).consume({
      ...limits,
      name,
      key: key(...args),
      ...(cost !== undefined && { cost: typeof cost === 'function' ? cost(...args) : cost }),
    })
    return await fn.apply(this, args)
  }
}
