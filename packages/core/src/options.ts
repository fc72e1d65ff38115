import { InvalidOptionError, UNSHOWN } from './errors.ts'

/** Checks the options of one part: every check names the option in full and returns the value as it was given. */
export class OptionReader<Options extends object> {
  readonly #prefix: string
  readonly #options: Options

  constructor(prefix: string, options: Options) {
    if (!isObject(options)) {
      throw new InvalidOptionError(prefix, options, 'an object')
    }
    this.#prefix = prefix
    this.#options = options
  }

  /** Refuses names that are not among `known`: a misspelt option would otherwise be a silent default. What it holds may be a password. */
  onlyKnown(known: readonly (keyof Options & string)[]): this {
    for (const name of Object.keys(this.#options)) {
      if (!(known as readonly string[]).includes(name)) {
        throw new InvalidOptionError(
          this.#name(name),
          UNSHOWN,
          `left out: there is no such option (there are: ${known.join(', ')})`,
        )
      }
    }
    return this
  }

  integer(name: keyof Options & string, fallback: number, range: { min: number; max?: number }): number {
    const value = this.#options[name] as unknown
    if (value === undefined) return fallback
    const { min, max = Number.MAX_SAFE_INTEGER } = range
    if (!Number.isSafeInteger(value) || (value as number) < min || (value as number) > max) {
      const upTo = max === Number.MAX_SAFE_INTEGER ? '' : ` and at most ${max}`
      throw new InvalidOptionError(this.#name(name), value, `an integer of at least ${min}${upTo}`)
    }
    return value as number
  }

  /** A duration in milliseconds, at most what a timer of Node can hold. */
  milliseconds(name: keyof Options & string, fallback: number, range: { min?: number } = {}): number {
    return this.integer(name, fallback, { min: range.min ?? 0, max: 2_147_483_647 })
  }

  number(name: keyof Options & string, fallback: number, { min, max }: { min: number; max: number }): number {
    const value = this.#options[name] as unknown
    if (value === undefined) return fallback
    if (typeof value !== 'number' || !(value >= min && value <= max)) {
      throw new InvalidOptionError(this.#name(name), value, `a number from ${min} to ${max}`)
    }
    return value
  }

  boolean(name: keyof Options & string, fallback: boolean): boolean {
    const value = this.#options[name] as unknown
    if (value === undefined) return fallback
    if (typeof value !== 'boolean') throw new InvalidOptionError(this.#name(name), value, 'true or false')
    return value
  }

  string<Fallback extends string | undefined>(name: keyof Options & string, fallback: Fallback): string | Fallback {
    const value = this.#options[name] as unknown
    if (value === undefined) return fallback
    if (typeof value !== 'string' || value === '') {
      throw new InvalidOptionError(this.#name(name), value, 'a string that is not empty')
    }
    return value
  }

  oneOf<Value extends string, Fallback extends Value | undefined>(
    name: keyof Options & string,
    fallback: Fallback,
    values: readonly Value[],
  ): Value | Fallback {
    const value = this.#options[name] as unknown
    if (value === undefined) return fallback
    if (!values.includes(value as Value)) {
      throw new InvalidOptionError(this.#name(name), value, `one of ${values.map((each) => `'${each}'`).join(', ')}`)
    }
    return value as Value
  }

  function(name: keyof Options & string): void {
    const value = this.#options[name] as unknown
    if (value !== undefined && typeof value !== 'function') {
      throw new InvalidOptionError(this.#name(name), value, 'a function')
    }
  }

  object(name: keyof Options & string): void {
    const value = this.#options[name] as unknown
    if (value !== undefined && !isObject(value)) throw new InvalidOptionError(this.#name(name), value, 'an object')
  }

  #name(name: string): string {
    return `${this.#prefix}.${name}`
  }
}

function isObject(value: unknown): value is object {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
