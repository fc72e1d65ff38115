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
  checkRateLimited(options, 'rateLimited')
  const name = options.name ?? fn.name
  if (name === '') throw new InvalidOptionError('rateLimited.name', undefined, 'given: the function has no name')
  return limitedFunction(options, fn, name, `${name}, which is rate limited,`)
}

/** @throws InvalidOptionError naming the option that is wrong. */
export function checkRateLimited<Args extends readonly unknown[]>(
  options: RateLimitedOptions<Args>,
  prefix: string,
): void {
  const read = new OptionReader(prefix, options)
  read.onlyKnown(['name', 'key', 'limit', 'windowMs', 'burst', 'cost', 'shadow', 'onStoreFailure', 'storeTimeoutMs'])
  if (typeof options.key !== 'function') throw new InvalidOptionError(`${prefix}.key`, options.key, 'a function')
  const { key, cost, ...limits } = options
  rateLimitRule({ ...limits, ...(typeof cost !== 'function' && cost !== undefined && { cost }) }, prefix)
}

/** @param called what needs a scope, for the message where there is none. */
export function limitedFunction<This, Args extends unknown[], Result>(
  options: RateLimitedOptions<Args>,
  fn: (this: This, ...args: Args) => Result,
  name: string,
  called: string,
): (this: This, ...args: Args) => Promise<Awaited<Result>> {
  const { key, cost, ...limits } = options
  return async function limited(this: This, ...args: Args): Promise<Awaited<Result>> {
    await requireCurrentScope(called).consume({
      ...limits,
      name,
      key: key.apply(this, args),
      ...(cost !== undefined && { cost: typeof cost === 'function' ? cost.apply(this, args) : cost }),
    })
    return await fn.apply(this, args)
  }
}
