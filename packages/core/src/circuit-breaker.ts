import { BrokenCircuitError, CircuitState, ConsecutiveBreaker, circuitBreaker, handleWhen } from 'cockatiel'
import { CircuitOpenError, ConnectionLostError } from './errors.ts'
import { OptionReader } from './options.ts'

/** When a resource is left alone because it can't be reached. */
export interface CircuitBreakerOptions {
  /** After so many failures to connect in a row. Default 5. */
  readonly failures?: number
  /** After so long one attempt is let through to see whether it is back, in milliseconds. Default 500. */
  readonly halfOpenAfterMs?: number
}

/** The options, checked, with their defaults. */
export function checkCircuitBreakerOptions(
  options: CircuitBreakerOptions,
  prefix: string,
): Required<CircuitBreakerOptions> {
  const read = new OptionReader(prefix, options).onlyKnown(['failures', 'halfOpenAfterMs'])
  return {
    failures: read.integer('failures', 5, { min: 1 }),
    halfOpenAfterMs: read.milliseconds('halfOpenAfterMs', 500, { min: 1 }),
  }
}

/** What a failure says of the server: a wrong password or a full server will not be mended by leaving it alone. */
const COUNTED = new Set<string>(['unreachable', 'timeout', 'not-ready', 'lost'])

/**
 * Around connecting to one resource: after failures in a row attempts fail at once, until one that is let through succeeds.
 * Only failures to reach the server count, never its answers.
 */
export class CircuitBreaker {
  readonly #resource: string
  readonly #halfOpenAfterMs: number
  readonly #policy: ReturnType<typeof circuitBreaker>
  #openedAt = 0
  #cause: unknown

  constructor(
    resource: string,
    options: Required<CircuitBreakerOptions>,
    on: { opened(cause: unknown): void; closed(): void },
  ) {
    this.#resource = resource
    this.#halfOpenAfterMs = options.halfOpenAfterMs
    this.#policy = circuitBreaker(
      handleWhen((error) => error instanceof ConnectionLostError && COUNTED.has(error.reason)),
      { halfOpenAfter: options.halfOpenAfterMs, breaker: new ConsecutiveBreaker(options.failures) },
    )
    let isOpen = false
    this.#policy.onBreak((reason) => {
      this.#openedAt = performance.now()
      this.#cause = 'error' in reason ? reason.error : undefined
      if (isOpen) return // an attempt that was let through has failed: nothing is new
      isOpen = true
      on.opened(this.#cause)
    })
    this.#policy.onReset(() => {
      isOpen = false
      on.closed()
    })
  }

  get state(): 'closed' | 'open' | 'half-open' {
    const { state } = this.#policy
    return state === CircuitState.Closed ? 'closed' : state === CircuitState.HalfOpen ? 'half-open' : 'open'
  }

  /** @throws CircuitOpenError where it is open: `connect` is not called then. */
  async connect<Result>(connect: () => Promise<Result>): Promise<Result> {
    try {
      return await this.#policy.execute(connect)
    } catch (error) {
      if (!(error instanceof BrokenCircuitError)) throw error
      const retryAfterMs = Math.max(1, this.#openedAt + this.#halfOpenAfterMs - performance.now())
      throw new CircuitOpenError({ resource: this.#resource, retryAfterMs, cause: this.#cause })
    }
  }
}
