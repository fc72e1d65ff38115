import { InvalidOptionError } from '../errors.ts'
import { OptionReader } from '../options.ts'
import { type Rate, rateOf } from './gcra.ts'

/** One limit: so many requests in so much time, for each subject. */
export interface RateLimitOptions<Subject> {
  /**
   * How many requests of one subject pass in a window; or a function of the request, for plans: 0 lets none pass, Infinity
   * all.
   */
  readonly limit: number | ((subject: Subject) => number | Promise<number>)
  /** The window, in milliseconds. It slides: what was used comes back bit by bit, not all at once. */
  readonly windowMs: number
  /** How many may come at once. Default: `limit`. */
  readonly burst?: number
  /**
   * Who is counted: any string that tells subjects apart. Default, and where it returns nothing: the client's address, IPv6
   * by /64.
   */
  readonly key?: (subject: Subject) => string | number | undefined | Promise<string | number | undefined>
  /** How much a request takes, a whole number; 0 takes nothing and always passes. Default 1. */
  readonly cost?: number | ((subject: Subject) => number | Promise<number>)
  /** Counts together with every limit of the same group, name and key; else each route counts for itself. */
  readonly group?: string
  /** What the limit is called in headers and errors. Default: its window, `60s`. */
  readonly name?: string
  /** Whether a request is not counted at all. */
  readonly skip?: (subject: Subject) => boolean | Promise<boolean>
  /** Counts and reports what it would refuse, and refuses nothing. Default false. */
  readonly shadow?: boolean
  /**
   * What to do while the store can't be asked: let pass, refuse with 503, or count in this process alone. Default
   * `'local'`.
   */
  readonly onStoreFailure?: 'allow' | 'refuse' | 'local'
  /** How long the store may take, in milliseconds. Default 100. */
  readonly storeTimeoutMs?: number
}

export const RATE_LIMIT_OPTIONS = [
  'limit',
  'windowMs',
  'burst',
  'key',
  'cost',
  'group',
  'name',
  'skip',
  'shadow',
  'onStoreFailure',
  'storeTimeoutMs',
] as const satisfies readonly (keyof RateLimitOptions<unknown>)[]

/** A limit whose options were checked. */
export interface RateLimitRule<Subject> {
  readonly options: RateLimitOptions<Subject>
  /** Where the option is a function it is asked and checked for each request, in the name of this. */
  readonly prefix: string
  readonly name: string
  readonly onStoreFailure: 'allow' | 'refuse' | 'local'
  readonly storeTimeoutMs: number
  readonly shadow: boolean
  /** Where the limit is the same for everybody. */
  readonly rate: Rate | undefined
}

/**
 * Checks what one limit says.
 *
 * @param prefix what the options are called in messages: `config.scope of GET /songs.rateLimit[0]`.
 * @throws InvalidOptionError naming the option that is wrong.
 */
export function rateLimitRule<Subject>(options: RateLimitOptions<Subject>, prefix: string): RateLimitRule<Subject> {
  const read = new OptionReader(prefix, options)
  const windowMs = read.milliseconds('windowMs', 0, { min: 1 })
  if (windowMs === 0) throw new InvalidOptionError(`${prefix}.windowMs`, undefined, 'an integer of at least 1')
  const burst = options.burst === undefined ? undefined : read.integer('burst', 0, { min: 1 })
  for (const name of ['key', 'skip'] as const) read.function(name)
  let rate: Rate | undefined
  if (typeof options.limit !== 'function') {
    rate = checkedRate(options.limit, windowMs, burst, prefix)
    if (typeof options.cost !== 'function') {
      read.integer('cost', 1, { min: 0, max: burst ?? options.limit })
    }
  } else if (typeof options.cost !== 'function') {
    read.integer('cost', 1, { min: 0 })
  }
  const name = read.string('name', windowName(windowMs))
  if (!/^[ -~]{1,64}$/.test(name)) {
    throw new InvalidOptionError(`${prefix}.name`, name, 'of 1 to 64 printable ASCII characters: it goes into headers')
  }
  read.string('group', undefined)
  return {
    options,
    prefix,
    name,
    rate,
    shadow: read.boolean('shadow', false),
    onStoreFailure: read.oneOf('onStoreFailure', 'local', ['allow', 'refuse', 'local']),
    storeTimeoutMs: read.milliseconds('storeTimeoutMs', 100, { min: 1 }),
  }
}

/** @throws InvalidOptionError unless it is a number of requests that can be counted exactly. */
export function checkedRate(limit: unknown, windowMs: number, burst: number | undefined, prefix: string): Rate {
  if (!Number.isSafeInteger(limit) || (limit as number) < 1) {
    throw new InvalidOptionError(`${prefix}.limit`, limit, 'an integer of at least 1, or a function')
  }
  const rate = rateOf(limit as number, windowMs, burst ?? (limit as number))
  if (rate !== undefined) return rate
  throw new InvalidOptionError(
    `${prefix}.limit`,
    limit,
    `smaller, or a rounder number: it can't be counted exactly in a window of ${windowMs} ms`,
  )
}

/** `1500ms`, `60s`, `5min`, `2h`, `1d`: the largest unit that holds it in whole. */
function windowName(ms: number): string {
  const units = [
    ['d', 86_400_000],
    ['h', 3_600_000],
    ['min', 300_000],
    ['s', 1_000],
  ] as const
  for (const [unit, size] of units) {
    if (ms % size !== 0) continue
    return unit === 'min' ? `${ms / 60_000}min` : `${ms / size}${unit}`
  }
  return `${ms}ms`
}
