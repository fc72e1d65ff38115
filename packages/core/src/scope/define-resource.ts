import { InvalidOptionError } from '../errors.ts'
import { AcquisitionSite } from './acquisition-site.ts'
import type { Outcome } from './cleanup-stack.ts'
import { assertUsable, guardHandle } from './ownership.ts'
import type { Resource, ResourceContext, ResourceHealth } from './resource.ts'
import type { Scope } from './scope.ts'

/** The user's own resource; all but `handle` may be left out. */
export interface ResourceDefinition<Handle> {
  /** Opens it, when the application starts. */
  start?(context: ResourceContext): void | Promise<void>
  /** Closes it, when the application stops. */
  stop?(context: { readonly timeoutMs: number }): void | Promise<void>
  /** Makes the handle of one scope, on first use; may return a promise, which the scope then hands out. */
  handle(scope: Scope): Handle
  /**
   * Called when the scope ends, after its clean-ups, with the handle (awaited, where it was a promise) and how the scope
   * ended. It is a clean-up itself: the scope's other handles still work in it. Those of resources that are named later
   * are released before.
   */
  release?(handle: Awaited<Handle>, outcome: Outcome): void | Promise<void>
  health?(): ResourceHealth | Promise<ResourceHealth>
}

/**
 * Makes a resource of the user's own: `scope.<name>` is a handle bound to its scope, made on first use, refused after
 * the scope's end or inside another scope, and released once.
 *
 * @throws InvalidOptionError when a member is not a function, and from `createScopes` when another runtime has it already.
 */
export function defineResource<Handle>(definition: ResourceDefinition<Handle>): Resource<Handle> {
  if (typeof definition !== 'object' || definition === null) {
    throw new InvalidOptionError('defineResource', definition, 'an object with a function called handle')
  }
  for (const member of ['start', 'stop', 'handle', 'release', 'health'] as const) {
    const value = definition[member] as unknown
    if (typeof value !== 'function' && (member === 'handle' || value !== undefined)) {
      throw new InvalidOptionError(`defineResource.${member}`, value, 'a function')
    }
  }
  const originals = new WeakMap<object, Handle>()
  let attachedAs: string | undefined
  return {
    releasesAsCleanup: definition.release !== undefined,
    attach(runtime) {
      if (attachedAs !== undefined) {
        throw new InvalidOptionError(
          `createScopes.resources.${runtime.name}`,
          definition,
          'a resource of its own: this one belongs to another runtime, or has another name already',
        )
      }
      attachedAs = runtime.name
    },
    start: (context) => definition.start?.(context),
    stop: (context) => definition.stop?.(context),
    handle(scope) {
      const name = attachedAs ?? 'resource'
      const takenAt = new AcquisitionSite(scope.handleOf)
      assertUsable(scope, name, takenAt)
      const original = definition.handle(scope)
      const guarded = guardHandle(original, scope, () => assertUsable(scope, name, takenAt))
      if (typeof guarded === 'object' && guarded !== null) originals.set(guarded, original)
      return guarded
    },
    release(handle, _scope, outcome) {
      if (definition.release === undefined) return
      const original = (typeof handle === 'object' && handle !== null && originals.get(handle)) || handle
      return releaseOnce(original, outcome, definition.release.bind(definition))
    },
    health: () => definition.health?.() ?? { status: 'up' },
  }
}

function releaseOnce<Handle>(
  handle: Handle,
  outcome: Outcome,
  release: (handle: Awaited<Handle>, outcome: Outcome) => void | Promise<void>,
): void | Promise<void> {
  if (!(handle instanceof Promise)) return release(handle as Awaited<Handle>, outcome)
  return handle.then(
    (opened) => release(opened as Awaited<Handle>, outcome),
    () => {}, // it never came to be, and its user was told
  )
}
