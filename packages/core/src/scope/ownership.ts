import { ScopeEndedError, ScopeLeakError } from '../errors.ts'
import type { AcquisitionSite } from './acquisition-site.ts'
import { currentContext } from './current.ts'
import type { Scope } from './scope.ts'

/** Where something that belongs to a scope says which; asking for it is no use of it. */
export const owner: unique symbol = Symbol.for('reqscope.owner') as never

/** The scope that `value` belongs to. Never throws: whatever it is given, it only asks. */
export function ownerOf(value: unknown): Scope | undefined {
  if ((typeof value !== 'object' && typeof value !== 'function') || value === null) return undefined
  try {
    return (value as { readonly [owner]?: Scope })[owner]
  } catch {
    return undefined
  }
}

/**
 * Decides whether a handle of `scope` may be used by the code that runs now.
 *
 * @throws ScopeLeakError while another open scope of the same runtime is current.
 * @throws ScopeEndedError after the scope's end, and while it is ending outside of its clean-ups.
 * @throws ScopeAbortedError or DeadlineExceededError once the scope was cancelled.
 * @throws LockLostError inside a lock that was lost.
 */
export function assertUsable(scope: Scope, resource: string, takenAt: AcquisitionSite | undefined): void {
  const context = currentContext()
  if (context?.scope === scope) {
    if (scope.acceptsUse) return
  } else if (context !== undefined && context.scope.state === 'open' && context.scope.isSiblingOf(scope)) {
    throw new ScopeLeakError({ scope, usedFrom: context.scope, resource, takenAt: takenAt?.toString() })
  }
  if (scope.state === 'open') {
    if (scope.cancelReason !== undefined) throw scope.cancelReason
    scope.assertLocksHeld(context)
    return
  }
  if (scope.state === 'ending' && scope.isCleaningUp(context)) {
    scope.assertLocksHeld(context)
    return
  }
  throw new ScopeEndedError({ scope, resource, takenAt: takenAt?.toString() })
}

/** Dresses a user's handle so that every use of it is checked; what is not an object or a function stays as it is. */
export function guardHandle<Handle>(handle: Handle, scope: Scope, check: () => void): Handle {
  if ((typeof handle !== 'object' && typeof handle !== 'function') || handle === null) return handle
  if (handle instanceof Promise) return guardPromise(handle, scope, check) as Handle
  return guardObject(handle, scope, check)
}

function guardPromise(promise: Promise<unknown>, scope: Scope, check: () => void): Promise<unknown> {
  const guarded = promise.then((value) => guardHandle(value, scope, check))
  guarded.catch(() => {}) // whoever uses the handle is told; nobody else needs to be
  return guarded
}

function guardObject<Handle extends object>(target: Handle, scope: Scope, check: () => void): Handle {
  // Weak: a getter may return a new function each time.
  const bound = new WeakMap<object, unknown>()
  const guarded: Handle = new Proxy(target, {
    get(_target, property) {
      if (property === owner) return scope
      const value = Reflect.get(target, property, target) as unknown
      // Asking whether a handle is thenable, or printing it, is not using it.
      if (property === 'then') return value
      const isUse = isUseOf(property)
      if (isUse) check()
      // Of a frozen object a proxy must show the method itself.
      if (typeof value !== 'function' || isFixed(target, property)) return value
      let method = bound.get(value)
      if (method === undefined) {
        // Bound to the target: a class with private fields does not know the proxy.
        method = (...args: unknown[]) => {
          if (isUse) check()
          return Reflect.apply(value, target, args)
        }
        bound.set(value, method)
      }
      return method
    },
    set(_target, property, value) {
      check()
      return Reflect.set(target, property, value, target)
    },
    has(_target, property) {
      if (property !== 'then' && isUseOf(property)) check()
      return Reflect.has(target, property)
    },
    deleteProperty(_target, property) {
      check()
      return Reflect.deleteProperty(target, property)
    },
    construct(_target, args, newTarget) {
      check()
      const original = target as unknown as new (...args: unknown[]) => object
      return Reflect.construct(original, args, newTarget === (guarded as unknown) ? original : newTarget)
    },
    apply(_target, self, args) {
      check()
      return Reflect.apply(target as unknown as (...args: unknown[]) => unknown, self, args)
    },
  })
  return guarded
}

const ITERATION: ReadonlySet<symbol> = new Set([Symbol.iterator, Symbol.asyncIterator])

/** Whether asking for this property uses the handle: printing and comparing ask for symbols. */
function isUseOf(property: string | symbol): boolean {
  return typeof property === 'string' || ITERATION.has(property)
}

function isFixed(target: object, property: string | symbol): boolean {
  const own = Reflect.getOwnPropertyDescriptor(target, property)
  return own !== undefined && !own.configurable && !own.writable
}
