import type { Transaction } from './transaction.ts'

/**
 * A nesting level: the transaction itself, or a savepoint in it. Postgres knows one innermost savepoint, so one is open
 * at a time; siblings, and statements of an outer level that come from elsewhere, queue until it is closed.
 */
export class Level {
  readonly transaction: Transaction
  readonly parent: Level | undefined
  readonly depth: number
  ended = false
  /** Rolled back, so that nothing of it remains. */
  undone = false
  /** Statements and inner levels that have begun or wait for their turn. */
  pending = 0
  readonly afterCommit: (() => unknown)[] = []
  /** Told when a savepoint is rolled back, of itself or of one around it. */
  onUndone: (() => void)[] | undefined

  constructor(transaction: Transaction, parent: Level | undefined) {
    this.transaction = transaction
    this.parent = parent
    this.depth = parent === undefined ? 0 : parent.depth + 1
  }

  /** Where what it did lives on: in itself, or in the level that it was released into. */
  get keptIn(): Level {
    return this.ended && !this.undone && this.parent !== undefined ? this.parent.keptIn : this
  }

  /** Whether it is `other` or inside it. */
  isWithin(other: Level): boolean {
    for (let level: Level | undefined = this; level !== undefined; level = level.parent)
      if (level === other) return true
    return false
  }
}
