import { InvalidOptionError } from '../errors.ts'
import { AdaptiveLimit, type AdaptiveOptions } from '../limits/adaptive.ts'
import { AdmissionGate } from '../limits/admission-gate.ts'
import { ConcurrencyLimit, type ConcurrencyOptions, PRIORITIES, type Priority } from '../limits/concurrency.ts'
import { OptionReader } from '../options.ts'
import type { AnyResource } from '../scope/resource.ts'

/** What a route says of who is let in. */
export interface RouteGateOptions {
  readonly concurrency?: ConcurrencyOptions
  readonly priority?: Priority
  readonly timeoutMs?: number
}

/** What is needed of a runtime. */
interface Slotted {
  readonly slots: readonly { readonly name: string; readonly resource: AnyResource }[]
}

/** The gates of an application's routes: they share one adaptive limit, and those of a group its concurrency. */
export class RouteGates {
  readonly #scopes: Slotted
  readonly #adaptive: AdaptiveLimit | undefined
  readonly #groups = new Map<string, ConcurrencyLimit>()

  /** @throws InvalidOptionError naming the option that is wrong. */
  constructor(scopes: Slotted, adaptive: boolean | AdaptiveOptions | undefined) {
    this.#scopes = scopes
    this.#adaptive =
      adaptive === undefined || adaptive === false
        ? undefined
        : new AdaptiveLimit(adaptive === true ? {} : adaptive, 'reqscope.adaptive')
  }

  /**
   * Undefined where the route lets everybody in.
   *
   * @param prefix what the options are called in messages.
   * @throws InvalidOptionError naming the option that is wrong.
   */
  gateOf(
    options: RouteGateOptions,
    prefix: string,
    concurrencyPrefix = `${prefix}.concurrency`,
  ): AdmissionGate | undefined {
    const priority = new OptionReader(prefix, options).oneOf('priority', 'normal', PRIORITIES)
    const concurrency = this.#concurrencyOf(options.concurrency, concurrencyPrefix)
    if (concurrency === undefined && this.#adaptive === undefined && options.timeoutMs === undefined) return undefined
    return new AdmissionGate({ concurrency, adaptive: this.#adaptive, priority, resources: this.#scopes.slots })
  }

  #concurrencyOf(options: ConcurrencyOptions | undefined, prefix: string): ConcurrencyLimit | undefined {
    if (options === undefined) return undefined
    const limit = new ConcurrencyLimit(options, prefix)
    if (options.group === undefined) return limit
    const group = this.#groups.get(options.group)
    if (group === undefined) {
      this.#groups.set(options.group, limit)
      return limit
    }
    for (const name of ['max', 'maxQueued', 'maxWaitMs'] as const) {
      if (group[name] === limit[name]) continue
      throw new InvalidOptionError(`${prefix}.${name}`, limit[name], `${group[name]}, as its group has it elsewhere`)
    }
    return group
  }
}
