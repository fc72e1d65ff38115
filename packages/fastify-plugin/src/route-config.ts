import { InvalidOptionError, type Scopes } from '@reqscope/core'
import {
  type AdmissionGate,
  type CommitRules,
  isTransactional,
  OptionReader,
  type RouteGates,
  type RouteRateLimitConfig,
  RouteRateLimits,
  type RouteTransactionOptions,
  readCommitRules,
} from '@reqscope/core/http'
import type { FastifyRequest, RouteOptions } from 'fastify'
import type { RouteScopeConfig } from './types.ts'

/** What is decided about a route's scopes when the route is registered. */
export interface RoutePolicy {
  readonly optedOut: boolean
  /** What its scopes are called; undefined where that depends on the request's method. */
  readonly name: string | undefined
  readonly url: string
  readonly timeoutMs: number | undefined
  readonly onAbort: 'cancel' | 'finish' | undefined
  readonly transaction: CommitRules | undefined
  /** Undefined where the plugin's are meant, false where there are none. */
  readonly rateLimits: RouteRateLimits<FastifyRequest> | false | undefined
  readonly gate: AdmissionGate | undefined
}

/** For what no route answers: the scopes of 404s. */
export const NO_ROUTE: RoutePolicy = {
  optedOut: false,
  name: undefined,
  url: '(no route)',
  timeoutMs: undefined,
  onAbort: undefined,
  transaction: undefined,
  rateLimits: undefined,
  gate: undefined,
}

const policyKey = Symbol('reqscope.policy')
type ConfigWithPolicy = { readonly [policyKey]?: RoutePolicy }

/** What Fastify keeps of a route, as far as it is looked at here. */
interface RouteContext {
  readonly config?: ConfigWithPolicy
  readonly errorHandler?: unknown
  readonly onError?: readonly unknown[] | null
}

type Contexts = Readonly<Record<symbol, RouteContext | undefined>>
let contextKey: symbol | undefined

/**
 * The policy of a request's route, from the config that was made by `withPolicy`.
 *
 * `request.routeOptions` puts an object of a dozen members together each time it is asked for, which is felt in a route that
 * does nothing. So the place it takes the config from is looked up once, and asked first.
 */
export function policyOf(request: FastifyRequest): RoutePolicy {
  const known = contextKey === undefined ? undefined : (request as unknown as Contexts)[contextKey]?.config?.[policyKey]
  if (known !== undefined) return known
  const config = request.routeOptions.config as ConfigWithPolicy
  contextKey ??= Object.getOwnPropertySymbols(request).find(
    (symbol) => (request as unknown as Contexts)[symbol]?.config === config,
  )
  return config[policyKey] ?? NO_ROUTE
}

/**
 * Whether an error of this request would be seen by nobody before `handler`: the route has no error handler of the user's,
 * and no `onError` hook but ours. Not where that can't be told.
 */
export function isAnsweredBy(handler: object, request: FastifyRequest): boolean {
  const context = contextKey === undefined ? undefined : (request as unknown as Contexts)[contextKey]
  return context?.errorHandler === handler && context.onError?.length === 1 && context.config?.[policyKey] !== undefined
}

/** A route's config that carries its policy; Fastify copies it with its symbols. */
export function withPolicy<Config extends object>(config: Config | undefined, policy: RoutePolicy): Config {
  return { ...config, [policyKey]: policy } as unknown as Config
}

/**
 * Checks a route's `config.scope`.
 *
 * @throws InvalidOptionError naming the route and the field.
 */
export function routePolicy(
  route: RouteOptions & { readonly path?: string },
  scopes: Scopes,
  gates: RouteGates,
): RoutePolicy {
  const methods = Array.isArray(route.method) ? route.method.join(',') : route.method
  const config: unknown = route.config?.scope
  const name = Array.isArray(route.method) && route.method.length > 1 ? undefined : `${methods} ${route.url}`
  const prefix = `config.scope of ${methods} ${route.url}`
  const common = { name, url: route.url }
  if (config === false) return { ...NO_ROUTE, ...common, optedOut: true }
  if (config === undefined) return { ...NO_ROUTE, ...common, gate: gates.gateOf({}, prefix) }
  if (typeof config !== 'object' || config === null || Array.isArray(config)) {
    throw new InvalidOptionError(prefix, config, 'an object, or false to opt the route out')
  }
  const options = config as RouteScopeConfig
  const read = new OptionReader(prefix, options).onlyKnown([
    'transaction',
    'timeoutMs',
    'onAbort',
    'rateLimit',
    'concurrency',
    'priority',
  ])
  return {
    ...NO_ROUTE,
    ...common,
    timeoutMs: options.timeoutMs === undefined ? undefined : read.milliseconds('timeoutMs', 0, { min: 1 }),
    onAbort: read.oneOf<'cancel' | 'finish', undefined>('onAbort', undefined, ['cancel', 'finish']),
    transaction: transactionOf(options.transaction, `${prefix}.transaction`, route, scopes),
    gate: gates.gateOf(options, prefix),
    rateLimits:
      options.rateLimit === undefined || options.rateLimit === false
        ? options.rateLimit
        : rateLimitsOf(options.rateLimit, `${prefix}.rateLimit`, `${withoutHead(methods)} ${route.url}`),
  }
}

/** @throws InvalidOptionError naming the option that is wrong. */
export function rateLimitsOf(
  config: RouteRateLimitConfig<FastifyRequest>,
  prefix: string,
  identity: string,
): RouteRateLimits<FastifyRequest> {
  return new RouteRateLimits(config, prefix, identity, addressOf)
}

const addressOf = (request: FastifyRequest): string => request.ip

// Fastify adds a HEAD route to every GET route: asking for the head only is no way to ask twice as often.
function withoutHead(methods: string): string {
  return methods === 'HEAD' ? 'GET' : methods
}

function transactionOf(value: unknown, prefix: string, route: RouteOptions, scopes: Scopes): CommitRules | undefined {
  if (value === undefined || value === false) return undefined
  if (value !== true && (typeof value !== 'object' || value === null || Array.isArray(value))) {
    throw new InvalidOptionError(prefix, value, 'true, false, or an object of transaction options')
  }
  if ((route as { websocket?: unknown }).websocket === true) {
    throw new InvalidOptionError(
      prefix,
      value,
      'left out: a socket has no response head to commit before. Use scopes.run and scope.transaction for each message',
    )
  }
  const options: RouteTransactionOptions = value === true ? {} : (value as RouteTransactionOptions)
  const rules = readCommitRules(options, prefix)
  checkResource(rules.begin.resource, prefix, scopes)
  return rules
}

function checkResource(wanted: string | undefined, prefix: string, scopes: Scopes): void {
  const names = Object.entries(scopes.resources).flatMap(([name, resource]) =>
    isTransactional(resource) ? [name] : [],
  )
  if (names.length === 0) {
    throw new InvalidOptionError(prefix, true, 'left out: the runtime has no resource that knows transactions')
  }
  if (wanted === undefined ? names.length === 1 : names.includes(wanted)) return
  throw new InvalidOptionError(`${prefix}.resource`, wanted, `one of ${names.map((name) => `'${name}'`).join(', ')}`)
}
