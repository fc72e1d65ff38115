import { currentContext, requireCurrentScope } from './current.ts'
import type { HandleOf, Resources } from './resource.ts'
import type { Scope } from './scope.ts'

/** A scope with a handle for each of the runtime's resources. */
export type ScopeWith<R extends Resources> = Scope & { readonly [Name in keyof R]: HandleOf<R[Name]> }

/**
 * Tells TypeScript which runtime this program has, once: it types `request.scope` and `currentScope()`.
 *
 * @example
 * declare module '@reqscope/core' { interface Register { scopes: typeof scopes } }
 */
// biome-ignore lint/suspicious/noEmptyInterface: filled in by the program
export interface Register {}

// biome-ignore lint/complexity/noBannedTypes: a runtime without resources adds nothing to its scopes
type RegisteredResources = Register extends { scopes: { readonly resources: infer R extends Resources } } ? R : {}

/** The scope type of the program's runtime. */
export type RegisteredScope = ScopeWith<RegisteredResources>

/**
 * The scope this code runs in.
 *
 * @throws NoActiveScopeError outside of every scope.
 */
export function currentScope(): RegisteredScope {
  return requireCurrentScope('currentScope()') as RegisteredScope
}

/** The scope this code runs in, or undefined outside of every scope. */
export function tryCurrentScope(): RegisteredScope | undefined {
  return currentContext()?.scope as RegisteredScope | undefined
}
