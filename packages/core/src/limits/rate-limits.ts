import { createHash } from 'node:crypto'
import { InvalidOptionError } from '../errors.ts'
import { clientSubject } from './client-address.ts'
import type { Rate } from './gcra.ts'
import { checkedRate, type RateLimitRule } from './rate-limit-options.ts'
import type { Window } from './refusal.ts'

// Longer subjects are kept as a hash: keys stay short, and a token that is used as a key is not written out.
const MAX_SUBJECT = 64
/** For whom the limit of a plan is 0. */
const nothing = (windowMs: number): Rate => ({ p: windowMs * 1_000, q: 1, burst: 0 })

/** The limits that a request meets together: what they ask for it. */
export class RateLimits<Subject> {
  readonly rules: readonly RateLimitRule<Subject>[]
  readonly #identities: readonly string[]
  readonly #addressOf: (subject: Subject) => string

  /**
   * @param identity what is counted where a limit has no group: the route.
   * @param addressOf the client's address, who is counted where a limit has no key.
   * @throws InvalidOptionError naming the option that is wrong.
   */
  constructor(rules: readonly RateLimitRule<Subject>[], identity: string, addressOf: (subject: Subject) => string) {
    this.rules = rules
    this.#addressOf = addressOf
    this.#identities = rules.map(({ options, name }) => `${options.group ?? identity}:${name}`)
    const seen = new Set<string>()
    for (const { name, prefix } of rules) {
      if (seen.has(name)) throw new InvalidOptionError(`${prefix}.name`, name, 'one that no other limit beside it has')
      seen.add(name)
    }
  }

  /** What each limit asks for this request; those it does not count under are left out. */
  windows(subject: Subject): Window[] | Promise<Window[]> {
    const windows: Window[] = []
    for (let index = 0; index < this.rules.length; index++) {
      const window = this.#window(index, subject)
      if (window === undefined) continue
      // From the first promise on it is all done one after another.
      if (isPromise(window)) return this.#rest(windows, window, index + 1, subject)
      windows.push(window)
    }
    return windows
  }

  async #rest(
    windows: Window[],
    pending: Promise<Window | undefined>,
    from: number,
    subject: Subject,
  ): Promise<Window[]> {
    const first = await pending
    if (first !== undefined) windows.push(first)
    for (let index = from; index < this.rules.length; index++) {
      const window = await this.#window(index, subject)
      if (window !== undefined) windows.push(window)
    }
    return windows
  }

  #window(index: number, subject: Subject): Window | undefined | Promise<Window | undefined> {
    const rule = this.rules[index] as RateLimitRule<Subject>
    const { skip, key, limit, cost = 1 } = rule.options
    const skipped = skip === undefined ? false : skip(subject)
    const who = key === undefined ? undefined : key(subject)
    const many = typeof limit === 'function' ? limit(subject) : limit
    const much = typeof cost === 'function' ? cost(subject) : cost
    if (isPromise(skipped) || isPromise(who) || isPromise(many) || isPromise(much)) {
      return Promise.all([skipped, who, many, much]).then((all) => this.#asked(index, subject, ...all))
    }
    return this.#asked(index, subject, skipped, who, many, much)
  }

  #asked(
    index: number,
    request: Subject,
    skipped: boolean,
    who: string | number | undefined,
    limit: number,
    cost: number,
  ): Window | undefined {
    if (skipped || limit === Number.POSITIVE_INFINITY) return undefined
    const rule = this.rules[index] as RateLimitRule<Subject>
    const { windowMs, burst } = rule.options
    const subject = subjectOf(who, rule.prefix) ?? `address:${clientSubject(this.#addressOf(request))}`
    if (!Number.isSafeInteger(cost) || cost < 0) {
      throw new InvalidOptionError(`${rule.prefix}.cost`, cost, 'an integer of at least 0')
    }
    const rate = rule.rate ?? (limit === 0 ? nothing(windowMs) : checkedRate(limit, windowMs, burst, rule.prefix))
    const { shadow } = rule
    const key = `reqscope:limit:{${subject}}:${this.#identities[index]}`
    return { key, rate, cost, shadow, rule, limit, windowMs, subject }
  }
}

// `key` and `address` are names of their own, so that nobody can pass for a client by a key that reads like its address.
function subjectOf(who: string | number | undefined | null, prefix: string): string | undefined {
  if (who === undefined || who === null || who === '') return undefined
  if (typeof who !== 'string' && typeof who !== 'number') {
    throw new InvalidOptionError(`${prefix}.key`, who, 'a function that returns a string or a number')
  }
  const plain = `key:${who}`
  if (plain.length > MAX_SUBJECT) return `hash:${createHash('sha256').update(plain).digest('base64url')}`
  // What stands between the first braces of a key decides on its slot, so there may be no other brace in it.
  return plain.includes('}') ? plain.replace(/[%}]/g, (each) => (each === '}' ? '%7D' : '%25')) : plain
}

function isPromise<T>(value: T | Promise<T>): value is Promise<T> {
  return typeof (value as { then?: unknown } | null | undefined)?.then === 'function'
}
