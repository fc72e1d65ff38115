import { InvalidOptionError, type RateLimitState } from '../errors.ts'
import { legacyHeaders, limitHeader, policyHeader } from '../limits/headers.ts'
import {
  RATE_LIMIT_OPTIONS,
  type RateLimitOptions,
  type RateLimitRule,
  rateLimitRule,
} from '../limits/rate-limit-options.ts'
import type { Consumption, Decision, RateLimiter } from '../limits/rate-limiter.ts'
import { RateLimits } from '../limits/rate-limits.ts'
import type { Refusal, Window } from '../limits/refusal.ts'
import { OptionReader } from '../options.ts'
import { problemDetails } from './problem-details.ts'

/** One limit of a route. */
export interface RouteRateLimitOptions<Request> extends RateLimitOptions<Request> {
  /**
   * When it is decided: as the first thing of a request, or after its hooks, for keys that need the user or the body. Default
   * `'onRequest'`.
   */
  readonly stage?: 'onRequest' | 'preHandler'
  /** Sends the `X-RateLimit-*` headers of old as well. Default false. */
  readonly legacyHeaders?: boolean
}

export type RouteRateLimitConfig<Request> = RouteRateLimitOptions<Request> | readonly RouteRateLimitOptions<Request>[]

/** What a request has consumed, and what its response says of it. */
export interface Passage {
  readonly consumed: readonly Consumption[]
  readonly states: readonly RateLimitState[]
  /** Whose limits those are; undefined where several of a request's have decided. */
  readonly of: object | undefined
}

/** The whole answer to a request that a limit refused. */
export interface RefusalAnswer {
  readonly headers: readonly (readonly [name: string, value: string])[]
  readonly body: string
}

const OPTIONS = [...RATE_LIMIT_OPTIONS, 'stage', 'legacyHeaders'] as const

/** The limits of a route, at the stages they are decided at. */
export class RouteRateLimits<Request> {
  readonly #stages: { readonly [Stage in 'onRequest' | 'preHandler']: RateLimits<Request> | undefined }
  readonly #legacy: boolean
  /** Where the limits are the same for every request, so is the header. */
  readonly #policies: string | undefined
  /** Under a flood the same refusal is answered again and again. */
  readonly #answers = new WeakMap<Refusal, RefusalAnswer>()

  /**
   * @param prefix what the config is called in messages.
   * @param identity what is counted where a limit has no group: the route.
   * @throws InvalidOptionError naming the option that is wrong.
   */
  constructor(
    config: RouteRateLimitConfig<Request>,
    prefix: string,
    identity: string,
    addressOf: (request: Request) => string,
  ) {
    const rules = rulesOf(config, prefix)
    new RateLimits(rules, identity, addressOf) // names are unique across the stages, as they are in the headers
    const at = (stage: 'onRequest' | 'preHandler') => {
      const those = rules.filter(({ options }) => (options.stage ?? 'onRequest') === stage)
      return those.length === 0 ? undefined : new RateLimits<Request>(those, identity, addressOf)
    }
    this.#stages = { onRequest: at('onRequest'), preHandler: at('preHandler') }
    this.#legacy = rules.some(({ options }) => options.legacyHeaders === true)
    const constant = rules.every(({ rate, options }) => rate !== undefined && options.skip === undefined)
    const open = rules.filter(({ shadow }) => !shadow)
    this.#policies = constant && open.length > 0 ? policyHeader(open.map(policyOf)) : undefined
  }

  /** Whether something is decided at this stage. */
  has(stage: 'onRequest' | 'preHandler'): boolean {
    return this.#stages[stage] !== undefined
  }

  /**
   * Decides at one stage: at once where that is known already.
   *
   * @param earlier what the request consumed at the stage before, which is given back if this one refuses it.
   * @throws OverloadedError where the limits can't be counted and say to refuse then.
   */
  check(
    limiter: RateLimiter,
    stage: 'onRequest' | 'preHandler',
    request: Request,
    earlier: Passage | undefined,
  ): Passage | Refusal | Promise<Passage | Refusal> {
    const windows = this.#stages[stage]?.windows(request) ?? []
    if (!Array.isArray(windows)) {
      return (windows as Promise<Window[]>).then((all) => this.#decide(limiter, all, earlier))
    }
    return this.#decide(limiter, windows, earlier)
  }

  #decide(
    limiter: RateLimiter,
    windows: Window[],
    earlier: Passage | undefined,
  ): Passage | Refusal | Promise<Passage | Refusal> {
    const decision = limiter.decide(windows)
    if (!('then' in decision)) return this.#passage(limiter, decision, earlier)
    return decision.then(
      (decided) => this.#passage(limiter, decided, earlier),
      (error: unknown) => {
        giveBack(limiter, earlier)
        throw error
      },
    )
  }

  #passage(limiter: RateLimiter, decision: Decision, earlier: Passage | undefined): Passage | Refusal {
    if (decision.tag === 'refused') {
      giveBack(limiter, earlier)
      return decision
    }
    const { consumed, states } = decision
    if (earlier === undefined) return { consumed: [consumed], states, of: this }
    return {
      consumed: [...earlier.consumed, consumed],
      states: [...earlier.states, ...states],
      of: earlier.of === this ? this : undefined,
    }
  }

  /** What a client is told of a refusal: the same as it is told of the error. */
  readonly answerTo = (refusal: Refusal): RefusalAnswer => {
    const known = this.#answers.get(refusal)
    if (known !== undefined) return known
    const { headers, body } = problemDetails(refusal.toError())
    const { 'content-type': type, ...others } = headers
    const all: [string, string][] = []
    const setHeader = (name: string, value: string) => all.push([name, value])
    this.writeHeaders({ states: refusal.states, of: this }, { setHeader })
    all.push(...Object.entries(others), ['content-type', `${type}; charset=utf-8`])
    const answer = { headers: all, body: JSON.stringify(body) }
    this.#answers.set(refusal, answer)
    return answer
  }

  /** Writes what a client may know of its limits, of a request that passed or of one that was refused. */
  writeHeaders(
    { states, of }: Pick<Passage, 'states' | 'of'>,
    reply: { setHeader(name: string, value: string): unknown },
  ): void {
    if (states.length === 0) return
    reply.setHeader(
      'ratelimit-policy',
      of === this && this.#policies !== undefined ? this.#policies : policyHeader(states),
    )
    reply.setHeader('ratelimit', limitHeader(states))
    if (!this.#legacy) return
    for (const [name, value] of Object.entries(legacyHeaders(states))) reply.setHeader(name, value)
  }
}

/** Gives back what a request consumed that is refused for another reason. */
export function giveBack(limiter: RateLimiter, passage: Passage | undefined): void {
  if (passage === undefined) return
  for (const consumption of passage.consumed) limiter.giveBack(consumption)
}

interface RouteRule<Request> extends RateLimitRule<Request> {
  readonly options: RouteRateLimitOptions<Request>
}

function rulesOf<Request>(config: RouteRateLimitConfig<Request>, prefix: string): RouteRule<Request>[] {
  if (!Array.isArray(config)) return [ruleOf(config as RouteRateLimitOptions<Request>, prefix)]
  if (config.length === 0) throw new InvalidOptionError(prefix, config, 'one limit at least, or false for none')
  return config.map((each: RouteRateLimitOptions<Request>, index) => ruleOf(each, `${prefix}[${index}]`))
}

function ruleOf<Request>(options: RouteRateLimitOptions<Request>, prefix: string): RouteRule<Request> {
  const read = new OptionReader(prefix, options).onlyKnown(OPTIONS)
  read.oneOf('stage', undefined, ['onRequest', 'preHandler'])
  read.boolean('legacyHeaders', false)
  return { ...rateLimitRule(options, prefix), options }
}

function policyOf({ name, options }: RateLimitRule<never>): { name: string; limit: number; windowMs: number } {
  return { name, limit: options.limit as number, windowMs: options.windowMs }
}
