import { InvalidOptionError } from '../errors.ts'
import { checkTransactionOptions } from '../postgres/transaction-options.ts'
import { requireCurrentScope } from '../scope/current.ts'
import type { TransactionOptions } from '../scope/resource.ts'
import { type AsyncMethodDecorator, likeMethod, methodDecorator } from './method-decorator.ts'

/**
 * Runs the method in a transaction of the current scope, and in the one around where there is one: see `scope.transaction`.
 *
 * @throws InvalidOptionError where it stands on something else than a method, or an option is wrong.
 * @throws NoActiveScopeError from the method, where no scope is current.
 */
export function Transactional(options: TransactionOptions = {}): AsyncMethodDecorator<readonly []> {
  checkTransactionOptions(options)
  return methodDecorator('@Transactional', (method, called) => {
    return async function inTransaction(this: unknown, ...args: unknown[]) {
      return requireCurrentScope(called).transaction(options, () => method.apply(this, args))
    }
  })
}

/** The same for a function: the result runs `fn` in a transaction. It keeps `this`, the name and the length. */
export function transactional<This, Args extends readonly unknown[], Result>(
  fn: (this: This, ...args: Args) => Result | Promise<Result>,
): (this: This, ...args: Args) => Promise<Result>
export function transactional<This, Args extends readonly unknown[], Result>(
  options: TransactionOptions,
  fn: (this: This, ...args: Args) => Result | Promise<Result>,
): (this: This, ...args: Args) => Promise<Result>
export function transactional<This, Args extends readonly unknown[], Result>(
  ...given:
    | [(this: This, ...args: Args) => Result | Promise<Result>]
    | [TransactionOptions, (this: This, ...args: Args) => Result | Promise<Result>]
): (this: This, ...args: Args) => Promise<Result> {
  const [options, fn] = given.length === 1 ? [{}, given[0]] : given
  checkTransactionOptions(options)
  if (typeof fn !== 'function') throw new InvalidOptionError('transactional.fn', fn, 'a function')
  const inTransaction = async function inTransaction(this: This, ...args: Args): Promise<Result> {
    return requireCurrentScope(`transactional(${fn.name || 'fn'})`).transaction(options, () =>
      fn.apply(this, args as never),
    )
  }
  return likeMethod(inTransaction as never, fn as never)
}
