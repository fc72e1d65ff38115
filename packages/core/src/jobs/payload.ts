import { types } from 'node:util'
import { JobPayloadError, type ScopeDescription, ScopeLeakError } from '../errors.ts'
import { currentContext } from '../scope/current.ts'
import { ownerOf } from '../scope/ownership.ts'

const MAX_DEPTH = 200
const LONE_SURROGATE = /\p{Surrogate}/u
/** The longest there are have 24 characters. */
const MAX_BYTES_PER_NUMBER = 25
const MAX_BYTES_PER_INTEGER = 12
/** What one UTF-16 unit can come to at most in JSON: `\u0000`. */
const MAX_BYTES_PER_UNIT = 6
/** Of these, JSON has one byte for each. */
const PLAIN = /^[ !#-[\]-~]*$/

export interface PayloadLimits {
  readonly maxBytes: number
  /** Postgres keeps JSON as jsonb, which has no U+0000 and no lone surrogates. */
  readonly asJsonb: boolean
}

/**
 * A copy of what is to be enqueued, in plain objects and lists. Each value is read once, so what was checked is what is
 * stored, whatever getters, proxies and later changes do. A property that is undefined is left out, as in JSON.
 *
 * @throws JobPayloadError for what JSON would change or drop, with the path.
 * @throws ScopeLeakError for what belongs to a scope, with the path.
 */
export function checkedPayload<Data>(job: string, data: Data, limits: PayloadLimits): Data {
  const check = new PayloadCheck(job, limits)
  const copy = check.copy(data, 0)
  check.weigh(copy)
  return copy as Data
}

class PayloadCheck {
  readonly #job: string
  readonly #limits: PayloadLimits
  /** The keys that lead to where the check is: put into words only when something is wrong there. */
  readonly #path: (string | number)[] = []
  readonly #within: object[] = []
  /** What the JSON comes to at least. */
  #units = 0
  #numberBytes = 0
  /** How many of the units may come to more than a byte. */
  #odd = 0
  #values = 0
  #plainKeys: Set<string> | undefined

  constructor(job: string, limits: PayloadLimits) {
    this.#job = job
    this.#limits = limits
  }

  copy(value: unknown, depth: number): unknown {
    this.#values++
    switch (typeof value) {
      case 'string':
        this.#units += value.length + 2
        if (this.#units > this.#limits.maxBytes) this.#tooLarge(depth)
        if (PLAIN.test(value)) return value
        this.#odd += value.length
        if (this.#limits.asJsonb && (value.includes('\0') || LONE_SURROGATE.test(value))) {
          throw this.#refused(depth, 'a string with U+0000 or half a surrogate pair, which Postgres does not store')
        }
        return value
      case 'number':
        if (!Number.isFinite(value)) throw this.#refused(depth, `${value}, which JSON turns into null`)
        this.#units++
        this.#numberBytes += (value | 0) === value ? MAX_BYTES_PER_INTEGER : MAX_BYTES_PER_NUMBER
        return value
      case 'boolean':
        this.#units += 4
        return value
      case 'object':
        if (value === null) {
          this.#units += 4
          return value
        }
        this.#units += 2
        return this.#copyObject(value, depth)
      default:
        throw this.#refused(depth, NAMES[typeof value] ?? typeof value, value)
    }
  }

  #copyObject(value: object, depth: number): unknown {
    if (depth >= MAX_DEPTH) throw this.#tooDeep(value, depth)
    const prototype = Object.getPrototypeOf(value) as unknown
    this.#within[depth] = value
    if (prototype === Array.prototype) return this.#copyList(value as unknown[], depth)
    if (prototype !== Object.prototype && prototype !== null) throw this.#refused(depth, nameOf(value), value)
    if (types.isProxy(value)) throw this.#refused(depth, 'a Proxy', value)
    const keys = Object.keys(value)
    if (Object.getOwnPropertySymbols(value).length > 0) throw this.#refused(depth, 'an object with symbol keys', value)
    const copy: Record<string, unknown> = {}
    for (let index = 0; index < keys.length; index++) {
      const key = keys[index] as string
      this.#path[depth] = key
      if (key === '__proto__') throw this.#refused(depth + 1, 'a key that would change the prototype of what is read')
      const item = this.#read(value, key, depth)
      if (item === undefined) continue
      this.#units += key.length + 3
      // In what is small it makes no difference.
      if (this.#units * 16 < this.#limits.maxBytes || !this.#isPlain(key)) this.#odd += key.length
      copy[key] = this.copy(item, depth + 1)
    }
    if (typeof copy.toJSON === 'function' || 'toJSON' in value) this.#refuseToJson(value, depth)
    return copy
  }

  /** Objects of one kind have the same keys, so few are ever looked at. */
  #isPlain(key: string): boolean {
    this.#plainKeys ??= new Set()
    if (this.#plainKeys.has(key)) return true
    if (!PLAIN.test(key)) return false
    this.#plainKeys.add(key)
    return true
  }

  #copyList(value: unknown[], depth: number): unknown[] {
    if (types.isProxy(value)) throw this.#refused(depth, 'a Proxy', value)
    const { length } = value
    // Before so much memory is taken: an item comes to at least two bytes.
    if (length * 2 > this.#limits.maxBytes) this.#tooLarge(depth)
    const copy: unknown[] = new Array(length)
    for (let index = 0; index < length; index++) {
      this.#path[depth] = index
      copy[index] = this.copy(value[index], depth + 1)
    }
    if ('toJSON' in value) this.#refuseToJson(value, depth)
    return copy
  }

  #read(value: object, key: string, depth: number): unknown {
    try {
      return (value as Record<string, unknown>)[key]
    } catch (cause) {
      throw this.#refused(depth + 1, 'a getter that throws', undefined, cause)
    }
  }

  /** Also an inherited one: JSON.stringify would call it on the copy. */
  #refuseToJson(value: object, depth: number): void {
    if (typeof (value as { toJSON?: unknown }).toJSON !== 'function') return
    throw this.#refused(depth, 'an object whose toJSON makes something else of it', value)
  }

  /** Measured exactly only where the estimates leave it open. */
  weigh(copy: unknown): void {
    // A value has a comma behind it, and `false` a letter more than `true`.
    const punctuation = this.#values * 2
    const atMost = this.#units + punctuation + this.#odd * (MAX_BYTES_PER_UNIT - 1) + this.#numberBytes
    if (atMost <= this.#limits.maxBytes) return
    const bytes = Buffer.byteLength(JSON.stringify(copy))
    if (bytes > this.#limits.maxBytes) this.#tooLarge(0, bytes)
  }

  #tooLarge(depth: number, bytes?: number): never {
    const size = bytes === undefined ? 'more than' : `${bytes} bytes of JSON, more than`
    throw new JobPayloadError({
      job: this.#job,
      path: bytes === undefined ? this.#words(depth) : 'data',
      found: `too large: ${size} the ${this.#limits.maxBytes} bytes of maxPayloadBytes${bytes === undefined ? ' are reached there' : ''}`,
      remedy: 'Store it, and pass its id.',
    })
  }

  #tooDeep(value: object, depth: number): Error {
    const first = this.#within.indexOf(value)
    return first >= 0 && first < depth
      ? this.#refused(depth, `the same object as ${this.#words(first)}: a cycle`)
      : this.#refused(depth, `nested deeper than ${MAX_DEPTH} levels`)
  }

  #refused(depth: number, found: string, value?: unknown, cause?: unknown): Error {
    const path = this.#words(depth)
    const owner = ownerIn(value)
    if (owner === undefined) return new JobPayloadError({ job: this.#job, path, found, cause })
    return new ScopeLeakError({
      scope: owner,
      usedFrom: currentContext()?.scope ?? owner,
      resource: String(this.#path[depth - 1] ?? 'data'),
      path: `${path} of job ${this.#job}`,
    })
  }

  #words(depth: number): string {
    let words = 'data'
    for (const key of this.#path.slice(0, depth)) {
      if (typeof key === 'number') words += `[${key}]`
      else words += /^[\p{ID_Start}$_][\p{ID_Continue}$]*$/u.test(key) ? `.${key}` : `[${JSON.stringify(key)}]`
    }
    return words
  }
}

const NAMES: Record<string, string> = {
  undefined: 'undefined, which JSON has not',
  bigint: 'a bigint, which JSON has not',
  symbol: 'a symbol',
  function: 'a function',
}

function nameOf(value: object): string {
  if (value instanceof Date) return 'a Date, which JSON turns into a string: pass date.toISOString()'
  if (value instanceof Promise) return 'a promise: await it'
  let name: unknown
  try {
    name = types.isProxy(value) ? undefined : value.constructor?.name
  } catch {
    // a getter of the user's
  }
  if (Array.isArray(value)) return `a list of class ${String(name)}: pass [...list]`
  return typeof name === 'string' && name !== '' ? `an instance of ${name}` : 'not a plain object'
}

/** The scope it belongs to: itself, or that of the request whose scope it is. */
function ownerIn(value: unknown): ScopeDescription | undefined {
  const owner = ownerOf(value)
  if (owner !== undefined || typeof value !== 'object' || value === null) return owner
  try {
    const { scope, request } = value as { scope?: unknown; request?: { scope?: unknown } }
    return ownerOf(scope) ?? ownerOf(request?.scope)
  } catch {
    return undefined
  }
}
