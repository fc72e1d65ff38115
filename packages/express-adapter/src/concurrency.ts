import { InvalidOptionError } from '@reqscope/core'
import {
  type AdmissionGate,
  type ConcurrencyOptions as CoreOptions,
  enterGate,
  type Priority,
  RouteGates,
} from '@reqscope/core/http'
import type { RequestHandler } from 'express'
import { needsScope } from './order.ts'
import { requireLife } from './request-life.ts'
import type { AnyRequestHandler } from './types.ts'

export interface ConcurrencyOptions extends CoreOptions {
  /** Whose requests are let in first, and refused last. Default `'normal'`. */
  readonly priority?: Priority
}

/**
 * How many requests may be under way at once behind it; the others wait their turn or get a 503. Each call counts for
 * itself, wherever it is used; `group` counts several of an application together.
 *
 * @throws InvalidOptionError naming the option that is wrong; at the first request where two of a group do not agree.
 */
export function concurrency(options: ConcurrencyOptions): AnyRequestHandler {
  if (typeof options !== 'object' || options === null) throw new InvalidOptionError('concurrency', options, 'an object')
  const { priority, ...places } = options
  const gateFor = (gates: RouteGates) =>
    gates.gateOf({ concurrency: places, ...(priority === undefined ? {} : { priority }) }, 'concurrency', 'concurrency')
  gateFor(new RouteGates({ slots: [] }, false)) // tells what is wrong now
  // Of the application whose requests come by: in tests there may be several.
  const found = new WeakMap<RouteGates, AdmissionGate>()

  const concurrency: RequestHandler = function concurrency(request, _response, next) {
    const life = requireLife(request, 'concurrency()')
    let gate = found.get(life.gates)
    if (gate === undefined) {
      gate = gateFor(life.gates) as AdmissionGate
      found.set(life.gates, gate)
    }
    enterGate(gate, life.scopes.rateLimiter, life, next)
  }
  return needsScope(concurrency, 'concurrency()') as AnyRequestHandler
}
