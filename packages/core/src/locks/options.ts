import { InvalidOptionError } from '../errors.ts'
import { OptionReader } from '../options.ts'
import type { LockKeys, LockOptions } from '../scope/locker.ts'

/** The options of a lock, checked, with their defaults. */
export interface LockConfig {
  readonly ttlMs: number
  readonly waitMs: number
  readonly autoExtend: boolean
  readonly maxHoldMs: number
  readonly mode: 'exclusive' | 'shared'
  readonly limit: number | undefined
  readonly reentrant: boolean
  readonly signal: AbortSignal | undefined
}

const KNOWN: readonly (keyof LockOptions)[] = [
  'ttlMs',
  'waitMs',
  'autoExtend',
  'maxHoldMs',
  'mode',
  'limit',
  'reentrant',
  'signal',
]
const DEFAULTS: LockConfig = {
  ttlMs: 30_000,
  waitMs: 5_000,
  autoExtend: true,
  maxHoldMs: Number.POSITIVE_INFINITY,
  mode: 'exclusive',
  limit: undefined,
  reentrant: false,
  signal: undefined,
}
const LONGEST_KEY = 1_000
const MOST_KEYS = 100

/** @throws InvalidOptionError naming the option. */
export function checkLockOptions(options: LockOptions): LockConfig {
  const read = new OptionReader('lock', options)
  // Most locks are taken with the defaults.
  return Object.keys(options).length === 0 ? DEFAULTS : checked(options, read.onlyKnown(KNOWN))
}

function checked(options: LockOptions, read: OptionReader<LockOptions>): LockConfig {
  const { signal, maxHoldMs } = options
  if (signal !== undefined && !(signal instanceof AbortSignal)) {
    throw new InvalidOptionError('lock.signal', signal, 'an AbortSignal')
  }
  const mode = read.oneOf('mode', 'exclusive', ['exclusive', 'shared'])
  const limit = options.limit === undefined ? undefined : read.integer('limit', 1, { min: 1, max: 1_000_000 })
  if (limit !== undefined && options.mode !== undefined) {
    throw new InvalidOptionError('lock.mode', mode, 'left out where there is a limit: that is a semaphore')
  }
  return {
    ttlMs: read.milliseconds('ttlMs', DEFAULTS.ttlMs, { min: 100 }),
    waitMs: read.milliseconds('waitMs', DEFAULTS.waitMs),
    autoExtend: read.boolean('autoExtend', true),
    maxHoldMs: maxHoldMs === undefined ? DEFAULTS.maxHoldMs : read.milliseconds('maxHoldMs', 0, { min: 1 }),
    mode,
    limit,
    reentrant: read.boolean('reentrant', false),
    signal,
  }
}

/** Distinct and in a stable order, so that nobody waits for somebody who waits for them. */
export function checkLockKeys(keys: LockKeys): readonly string[] {
  if (typeof keys === 'string') return [checkedKey(keys, 'lock.key')]
  if (!Array.isArray(keys) || keys.length === 0 || keys.length > MOST_KEYS) {
    throw new InvalidOptionError('lock.keys', keys, `a key, or 1 to ${MOST_KEYS} keys`)
  }
  return [...new Set(keys.map((key, index) => checkedKey(key, `lock.keys[${index}]`)))].sort()
}

function checkedKey(key: unknown, option: string): string {
  if (typeof key !== 'string' || key === '' || key.length > LONGEST_KEY) {
    throw new InvalidOptionError(option, key, `a string of 1 to ${LONGEST_KEY} characters`)
  }
  return key
}
