import type { LeaseDescription } from '../events.ts'

/** What the ledger needs to know of a lease; the lease's own feature implements it. */
export interface LedgerEntry {
  describe(): LeaseDescription
}

/** Every lease that is out, of all resources: the answer to "who holds the connections?". */
export class Ledger {
  readonly #out = new Set<LedgerEntry>()

  record(entry: LedgerEntry): void {
    this.#out.add(entry)
  }

  strike(entry: LedgerEntry): void {
    this.#out.delete(entry)
  }

  /** The longest-held first. */
  describe(): LeaseDescription[] {
    return [...this.#out].map((entry) => entry.describe()).sort((a, b) => b.heldMs - a.heldMs)
  }
}
