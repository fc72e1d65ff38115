/** How a scope's work ended, as its clean-ups are told. */
export type Outcome =
  | { readonly tag: 'completed' }
  | { readonly tag: 'failed'; readonly error: unknown }
  | { readonly tag: 'aborted'; readonly error: unknown }

export const COMPLETED: Outcome = { tag: 'completed' }

export type Cleanup = (outcome: Outcome) => unknown

/** Clean-ups that run last-in first-out, all of them, whatever the others do. */
export class CleanupStack {
  readonly #cleanups: Cleanup[] = []
  #done = false

  /** Returns false when they have all run already: then this one will not. */
  push(cleanup: Cleanup): boolean {
    if (!this.#done) this.#cleanups.push(cleanup)
    return !this.#done
  }

  /**
   * Runs and forgets them all, also those that are added meanwhile, then what `next` comes up with until it has nothing
   * more. Resolves to what they threw.
   */
  async run(outcome: Outcome, next: () => Cleanup | undefined = () => undefined): Promise<unknown[]> {
    const failures: unknown[] = []
    for (let cleanup = this.#next(next); cleanup !== undefined; cleanup = this.#next(next)) {
      try {
        await cleanup(outcome)
      } catch (failure) {
        failures.push(failure)
      }
    }
    this.#done = true
    return failures
  }

  #next(other: () => Cleanup | undefined): Cleanup | undefined {
    return this.#cleanups.pop() ?? other()
  }
}
