import { InvalidOptionError } from '../errors.ts'

// biome-ignore lint/suspicious/noExplicitAny: whatever the method takes
type AnyMethod = (this: any, ...args: any[]) => any

/**
 * Decorates a method whose arguments begin with `Args` and that returns a promise, in both dialects: standard decorators,
 * and TypeScript's legacy ones (`experimentalDecorators`).
 */
export interface AsyncMethodDecorator<Args extends readonly unknown[]> {
  <This, All extends readonly [...Args, ...unknown[]], Result>(
    method: (this: This, ...args: All) => Promise<Result>,
    context: ClassMethodDecoratorContext<This, (this: This, ...args: All) => Promise<Result>>,
  ): void
  <All extends readonly [...Args, ...unknown[]], Result>(
    target: object,
    name: string | symbol,
    descriptor: TypedPropertyDescriptor<(...args: All) => Promise<Result>>,
  ): void
}

/**
 * Makes a decorator of a function that wraps a method.
 *
 * @param name what the decorator is called, for messages: `@Locked`.
 * @param wrap gets the method and what a message calls it, and returns what takes its place.
 */
export function methodDecorator<Args extends readonly unknown[]>(
  name: string,
  wrap: (method: AnyMethod, called: string) => AnyMethod,
): AsyncMethodDecorator<Args> {
  const decorate = (target: unknown, place: unknown, descriptor?: PropertyDescriptor): unknown => {
    if (typeof place === 'object' && place !== null && 'kind' in place) {
      const { kind, name: method } = place as { kind: string; name: string | symbol }
      if (kind !== 'method' || typeof target !== 'function') throw notAMethod(name, method)
      return likeMethod(wrap(target as AnyMethod, `${name} on ${String(method)}`), target as AnyMethod)
    }
    const method = place as string | symbol
    if (typeof descriptor?.value !== 'function') throw notAMethod(name, method)
    const owner = typeof target === 'function' ? target.name : target?.constructor.name
    const original = descriptor.value as AnyMethod
    const wrapped = likeMethod(wrap(original, `${name} on ${owner}.${String(method)}`), original)
    return { ...descriptor, value: wrapped }
  }
  return decorate as AsyncMethodDecorator<Args>
}

/** Gives a wrapper the name and length of what it wraps: frameworks and stack traces look at them. */
export function likeMethod<Wrapper extends AnyMethod>(wrapper: Wrapper, original: AnyMethod): Wrapper {
  Object.defineProperty(wrapper, 'name', { value: original.name, configurable: true })
  Object.defineProperty(wrapper, 'length', { value: original.length, configurable: true })
  return wrapper
}

function notAMethod(name: string, place: string | symbol): InvalidOptionError {
  return new InvalidOptionError(`${name} on ${String(place)}`, place, 'put on a method')
}
