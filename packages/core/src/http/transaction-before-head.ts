import { InvalidOptionError } from '../errors.ts'
import { OptionReader } from '../options.ts'
import { runInContext } from '../scope/current.ts'
import type { ManualTransaction, TransactionOptions } from '../scope/resource.ts'
import type { Scope } from '../scope/scope.ts'

/** What `commitWhen` decides by. */
export interface ReplyFacts {
  readonly statusCode: number
}

/** How a route's transaction is to be had. */
export interface RouteTransactionOptions
  extends Pick<TransactionOptions, 'isolationLevel' | 'accessMode' | 'deferrable' | 'resource'> {
  /** Whether a reply commits. Default: when its status is below 400. What the handler throws always rolls back. */
  readonly commitWhen?: (facts: ReplyFacts) => boolean
}

/** A route's options, taken apart once for all its requests. */
export interface CommitRules {
  readonly begin: TransactionOptions
  readonly commitWhen: (facts: ReplyFacts) => boolean
}

/**
 * Checks what a route says of its transaction.
 *
 * @param prefix what the options belong to, as an error names it.
 * @throws InvalidOptionError naming the option that is wrong.
 */
export function readCommitRules(options: RouteTransactionOptions, prefix: string): CommitRules {
  const read = new OptionReader(prefix, options).onlyKnown([
    'isolationLevel',
    'accessMode',
    'deferrable',
    'resource',
    'commitWhen',
  ])
  read.oneOf('isolationLevel', undefined, ['read uncommitted', 'read committed', 'repeatable read', 'serializable'])
  read.oneOf('accessMode', undefined, ['read only', 'read write'])
  read.boolean('deferrable', false)
  read.string('resource', undefined)
  read.function('commitWhen')
  return commitRules(options)
}

function commitRules(options: RouteTransactionOptions): CommitRules {
  const { commitWhen = ({ statusCode }: ReplyFacts) => statusCode < 400, ...begin } = options
  return { begin, commitWhen }
}

/**
 * The transaction of a route: the handler runs in it, and it is committed before the response's head is written, so
 * that a client is never told of something that was not kept.
 */
export class TransactionBeforeHead {
  readonly #scope: Scope
  readonly #rules: CommitRules
  #transaction: ManualTransaction | undefined
  #settling: Promise<void> | undefined

  constructor(scope: Scope, rules: CommitRules) {
    this.#scope = scope
    this.#rules = rules
  }

  /** Runs the handler, or a part of it, in the transaction. */
  run<Result>(handler: () => Result): Result {
    this.#transaction ??= this.#scope.openTransaction(this.#rules.begin)
    return this.#transaction.run(handler)
  }

  /** Whether it is decided already. */
  get isSettling(): boolean {
    return this.#settling !== undefined
  }

  /**
   * Commits or rolls back, once, as the reply's status says. Returns nothing where there is nothing to do.
   *
   * @throws what the commit throws: the reply must become an error then.
   */
  settle(statusCode: number): Promise<void> | undefined {
    if (this.#settling !== undefined) return this.#settling.catch(() => {}) // whoever settled it was told
    const transaction = this.#transaction
    if (transaction === undefined) return undefined
    // The handler's context, if it asks itself, is one of the transaction: afterCommit functions would run in one that is over.
    this.#settling = runInContext(this.#scope, () => this.#settle(transaction, statusCode))
    return this.#settling
  }

  async #settle(transaction: ManualTransaction, statusCode: number): Promise<void> {
    const { cancelReason } = this.#scope
    let commits: boolean
    try {
      commits = this.#rules.commitWhen({ statusCode })
      // A promise would count as true, whatever it comes to.
      if (typeof commits !== 'boolean')
        throw new InvalidOptionError('commitWhen', commits, 'a function that returns a boolean')
    } catch (error) {
      await this.#rollBack(transaction)
      throw error
    }
    if (commits && cancelReason === undefined) return transaction.commit()
    await this.#rollBack(transaction)
    if (commits) throw cancelReason
  }

  /** Rolls back because the handler failed. Never rejects. */
  async rollback(): Promise<void> {
    if (this.#settling === undefined && this.#transaction !== undefined) {
      this.#settling = this.#rollBack(this.#transaction)
    }
    await this.#settling?.catch(() => {})
  }

  /** The scope ends: what is still open is rolled back, and that is reported with `why`. */
  abandon(why: string): void {
    const transaction = this.#transaction
    if (transaction === undefined || this.#settling !== undefined) return
    const scope = this.#scope
    scope.log.warn(
      { scope: scope.describe() },
      `the transaction of ${scope.name} (${scope.id}) was not committed but rolled back: ${why}`,
    )
    this.#settling = this.#rollBack(transaction)
  }

  // A connection that can't roll back any more is discarded, and the server rolls back: the answer need not change.
  async #rollBack(transaction: ManualTransaction): Promise<void> {
    try {
      await transaction.rollback()
    } catch (error) {
      this.#scope.log.debug({ err: error, scope: this.#scope.describe() }, 'a rollback failed')
    }
  }
}
