import { AsyncLocalStorage } from 'node:async_hooks'
import { NoActiveScopeError } from '../errors.ts'
import type { Scope } from './scope.ts'

/**
 * One link of the ambient context. A scope is the root of its own chain; a transaction, a pinned connection or a
 * clean-up is a link in front of it, so what holds for a piece of code is found by ancestry and never by time.
 */
export interface Context {
  readonly scope: Scope
  readonly parent: Context | undefined
  /** Whose link this is: only its owner knows the key. */
  readonly key: unknown
  readonly value: unknown
}

const storage = new AsyncLocalStorage<Context>()

// Taken while this module is loaded, so it holds nobody's scope.
const restoreOutside = AsyncLocalStorage.snapshot()

/** Runs `fn` in no scope and in no other library's context either: for what outlives the caller. */
export function outsideEveryScope<Result>(fn: () => Result): Result {
  return restoreOutside(fn)
}

export function currentContext(): Context | undefined {
  return storage.getStore()
}

/** @param context a link, or a scope for the root of its chain. */
export function runInContext<Result>(context: Scope | Context, fn: () => Result): Result {
  return storage.run(context, fn)
}

/** Runs `fn` with one more link in front of `parent`. */
export function runWithin<Result>(parent: Context, key: unknown, value: unknown, fn: () => Result): Result {
  return storage.run({ scope: parent.scope, parent, key, value }, fn)
}

/** The value of the innermost link with this key, among those of the same scope. */
export function findInContext(context: Context | undefined, key: unknown): unknown {
  for (let link = context; link?.parent !== undefined; link = link.parent) {
    if (link.key === key) return link.value
  }
  return undefined
}

/** @throws NoActiveScopeError where there is none. */
export function requireCurrentScope(needed: string): Scope {
  const scope = storage.getStore()?.scope
  if (scope === undefined) throw new NoActiveScopeError({ needed })
  return scope
}
