import type { Scope } from './scope.ts'

/**
 * The scopes of a runtime that are open. A list through the scopes themselves: a Set would give each of them a hash first,
 * and every request pays for what is done here.
 */
export class OpenScopes {
  #newest: Scope | undefined
  #size = 0

  get size(): number {
    return this.#size
  }

  add(scope: Scope): void {
    const older = this.#newest
    scope.older = older
    if (older !== undefined) older.newer = scope
    this.#newest = scope
    this.#size++
  }

  /** Once for each scope that was added. */
  delete(scope: Scope): void {
    const { older, newer } = scope
    if (older !== undefined) older.newer = newer
    if (newer === undefined) this.#newest = older
    else newer.older = older
    scope.older = scope.newer = undefined
    this.#size--
  }

  /** Those that are open now, the oldest first. */
  list(): Scope[] {
    const all: Scope[] = []
    for (let scope = this.#newest; scope !== undefined; scope = scope.older) all.push(scope)
    return all.reverse()
  }
}
