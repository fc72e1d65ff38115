import { Scope } from './scope.ts'

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
    Scope.link(scope, this.#newest)
    this.#newest = scope
    this.#size++
  }

  /** Once for each scope that was added. */
  delete(scope: Scope): void {
    const older = Scope.unlink(scope)
    if (scope === this.#newest) this.#newest = older
    this.#size--
  }

  /** Those that are open now, the oldest first. */
  list(): Scope[] {
    const all: Scope[] = []
    for (let scope = this.#newest; scope !== undefined; scope = Scope.olderThan(scope)) all.push(scope)
    return all.reverse()
  }
}
