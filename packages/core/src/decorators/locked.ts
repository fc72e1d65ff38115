import { InvalidOptionError } from '../errors.ts'
import { checkLockOptions } from '../locks/options.ts'
import { requireCurrentScope } from '../scope/current.ts'
import type { LockKeys, LockOptions } from '../scope/locker.ts'
import { type AsyncMethodDecorator, likeMethod, methodDecorator } from './method-decorator.ts'

/** How a method or function is locked: as `scope.lock` is, with the key made of the arguments. */
export interface LockedOptions<Args extends readonly unknown[]> extends LockOptions {
  /** The key, or several; or a function that makes them of the arguments, called on the same `this`. */
  readonly key: LockKeys | ((...args: Args) => LockKeys)
}

/**
 * Runs the method under a lock of the current scope, across all processes: see `scope.lock`.
 *
 * @example
 * class ChatSessions {
 *   @Locked({ key: (sessionId: string) => `chat:session:${sessionId}`, ttlMs: 60_000 })
 *   async append(sessionId: string, message: Message) { ... }
 * }
 * @throws InvalidOptionError where it stands on something else than a method, or an option is wrong.
 * @throws NoActiveScopeError from the method, where no scope is current.
 */
export function Locked<const Args extends readonly unknown[]>(
  options: LockedOptions<Args>,
): AsyncMethodDecorator<Args> {
  const { key, rest } = checked('@Locked', options)
  return methodDecorator('@Locked', (method, called) => {
    return function underLock(this: unknown, ...args: unknown[]) {
      return underLockOf(called, key, rest, this, args as never, () => method.apply(this, args))
    }
  })
}

/** The same for a function: the result runs `fn` under the lock. It keeps `this`, the name and the length. */
export function locked<This, Args extends readonly unknown[], Result>(
  options: LockedOptions<NoInfer<Args>>,
  fn: (this: This, ...args: Args) => Result | Promise<Result>,
): (this: This, ...args: Args) => Promise<Result> {
  const { key, rest } = checked('locked', options)
  if (typeof fn !== 'function') throw new InvalidOptionError('locked.fn', fn, 'a function')
  const underLock = function underLock(this: This, ...args: Args): Promise<Result> {
    return underLockOf(`locked(${fn.name || 'fn'})`, key, rest, this, args, () => fn.apply(this, args as never))
  }
  return likeMethod(underLock as never, fn as never)
}

async function underLockOf<Args extends readonly unknown[], Result>(
  called: string,
  key: LockedOptions<Args>['key'],
  options: LockOptions,
  self: unknown,
  args: Args,
  fn: () => Result | Promise<Result>,
): Promise<Result> {
  const scope = requireCurrentScope(called)
  const keys = typeof key === 'function' ? key.apply(self, args as never) : key
  return scope.lock(keys, options, fn)
}

/** When the class is defined, rather than with the first call. */
function checked<Args extends readonly unknown[]>(
  name: string,
  options: LockedOptions<Args>,
): { key: LockedOptions<Args>['key']; rest: LockOptions } {
  if (typeof options !== 'object' || options === null) {
    throw new InvalidOptionError(name, options, 'an object with a key')
  }
  const { key, ...rest } = options
  if (typeof key !== 'function' && typeof key !== 'string' && !Array.isArray(key)) {
    throw new InvalidOptionError(`${name}.key`, key, 'a key, several, or a function that makes them of the arguments')
  }
  checkLockOptions(rest)
  return { key, rest }
}
