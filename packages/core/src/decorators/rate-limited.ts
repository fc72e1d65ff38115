import { checkRateLimited, limitedFunction, type RateLimitedOptions, rateLimited } from '../limits/rate-limited.ts'
import { type AsyncMethodDecorator, methodDecorator } from './method-decorator.ts'

export { type RateLimitedOptions, rateLimited }

/**
 * Limits how often the method may be called, by the current scope's limits: each call first consumes from them, see
 * `scope.consume`. The limit is called like the method where it has no `name` of its own, so methods of one name share it.
 *
 * @example
 * class Reports {
 *   @RateLimited({ name: 'report-export', key: (userId: string) => userId, limit: 5, windowMs: 60_000 })
 *   async export(userId: string) { ... }
 * }
 * @throws InvalidOptionError where it stands on something else than a method, or an option is wrong.
 * @throws NoActiveScopeError from the method, where no scope is current; RateLimitExceededError where it is refused.
 */
export function RateLimited<const Args extends readonly unknown[]>(
  options: RateLimitedOptions<Args>,
): AsyncMethodDecorator<Args> {
  checkRateLimited(options, '@RateLimited')
  return methodDecorator('@RateLimited', (method, called) =>
    limitedFunction(options as never, method, options.name ?? method.name, called),
  )
}
