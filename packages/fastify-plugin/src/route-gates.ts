import { InvalidOptionError, type Scopes } from '@reqscope/core'
import {
  AdaptiveLimit,
  AdmissionGate,
  ConcurrencyLimit,
  type ConcurrencyOptions,
  OptionReader,
  PRIORITIES,
} from '@reqscope/core/http'
import type { ReqscopeOptions, RouteScopeConfig } from './types.ts'

/** The gates of an application's routes: they share one adaptive limit, and those of a group its concurrency. */
export class RouteGates {
  readonly #scopes: Scopes
  readonly #adaptive: AdaptiveLimit | undefined
  readonly #groups = new Map<string, ConcurrencyLimit>()

  /** @throws InvalidOptionError naming the option that is wrong. */
  constructor(scopes: Scopes, adaptive: ReqscopeOptions['adaptive']) {
    this.#scopes = scopes
    this.#adaptive =
      adaptive === undefined || adaptive === false
        ? undefined
        : new AdaptiveLimit(adaptive === true ? {} : adaptive, 'reqscope.adaptive')
  }

  /**
   * Undefined where the route lets everybody in.
   *
   * @throws InvalidOptionError naming the option that is wrong.
   */
  gateOf(options: RouteScopeConfig, prefix: string): AdmissionGate | undefined {
    const priority = new OptionReader(prefix, options).oneOf('priority', 'normal', PRIORITIES)
    const concurrency = this.#concurrencyOf(options.concurrency, `${prefix}.concurrency`)
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
