import { InvalidOptionError } from '../errors.ts'
import { OptionReader } from '../options.ts'
import type { TransactionOptions } from '../scope/resource.ts'

/** BEGIN, and whether anything but the connection can make it fail: then it has to be waited for. */
export function beginOf(options: TransactionOptions): { text: string; canFail: boolean } {
  const { isolationLevel, accessMode, deferrable } = options
  const clauses = [
    isolationLevel && `isolation level ${isolationLevel}`,
    accessMode,
    deferrable === undefined ? undefined : deferrable ? 'deferrable' : 'not deferrable',
  ].filter((clause) => clause !== undefined)
  // A standby refuses these two.
  const canFail = isolationLevel === 'serializable' || accessMode === 'read write'
  return { text: clauses.length === 0 ? 'begin' : `begin ${clauses.join(', ')}`, canFail }
}

/** @throws InvalidOptionError naming the option; what reaches the server is one of a few fixed words. */
export function checkTransactionOptions(options: TransactionOptions): TransactionOptions {
  const read = new OptionReader('transaction', options).onlyKnown([
    'propagation',
    'isolationLevel',
    'accessMode',
    'deferrable',
    'retries',
    'resource',
  ])
  read.oneOf('propagation', 'required', ['required', 'requiresNew', 'nested', 'notSupported'])
  read.oneOf('isolationLevel', undefined, ['read uncommitted', 'read committed', 'repeatable read', 'serializable'])
  read.oneOf('accessMode', undefined, ['read only', 'read write'])
  read.boolean('deferrable', false)
  read.integer('retries', 0, { min: 0, max: 100 })
  return options
}

/** Retries, and settings that differ from the outermost transaction's, have no meaning inside of one. */
export function refuseInnerOptions(options: TransactionOptions, outer: TransactionOptions): void {
  if (options.retries !== undefined && options.retries > 0) {
    throw new InvalidOptionError(
      'transaction.retries',
      options.retries,
      'left out inside a transaction: only the outermost one can run again',
    )
  }
  for (const name of ['isolationLevel', 'accessMode', 'deferrable'] as const) {
    if (options[name] !== undefined && options[name] !== outer[name]) {
      throw new InvalidOptionError(
        `transaction.${name}`,
        options[name],
        `left out or the same as the outermost transaction's (${outer[name] ?? 'the default'})`,
      )
    }
  }
}
