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
  readonly #newPolicy: () => ReturnType<typeof circuitBreaker>
  readonly #closed: () => void
  #policy: ReturnType<typeof circuitBreaker>
  #isOpen = false
  #openedAt = 0
  #cause: unknown

  constructor(
    resource: string,
    options: Required<CircuitBreakerOptions>,
    on: { opened(cause: unknown): void; closed(): void },
  ) {
    this.#resource = resource
    this.#halfOpenAfterMs = options.halfOpenAfterMs
    this.#closed = () => {
      this.#isOpen = false
      on.closed()
    }
    this.#newPolicy = () => {
      const policy = circuitBreaker(
        handleWhen((error) => error instanceof ConnectionLostError && COUNTED.has(error.reason)),
        { halfOpenAfter: options.halfOpenAfterMs, breaker: new ConsecutiveBreaker(options.failures) },
      )
      policy.onBreak((reason) => {
        this.#openedAt = performance.now()
        this.#cause = 'error' in reason ? reason.error : undefined
        if (this.#isOpen) return // an attempt that was let through has failed: nothing is new
        this.#isOpen = true
        on.opened(this.#cause)
      })
      policy.onReset(this.#closed)
      return policy
    }
    this.#policy = this.#newPolicy()
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
      throw error instanceof BrokenCircuitError ? this.#refusal() : error
    }
  }

  /** For a client that connects again by itself: what is asked of it is refused while this is open. */
  get refusal(): CircuitOpenError | undefined {
    return this.#isOpen ? this.#refusal() : undefined
  }

  /** For such a client: one of its attempts has failed. */
  noteFailure(error: unknown): void {
    this.#policy.execute(() => Promise.reject(error)).catch(() => {})
  }

  /** For such a client: it is connected. */
  noteSuccess(): void {
    this.#policy = this.#newPolicy()
    if (this.#isOpen) this.#closed()
  }

  #refusal(): CircuitOpenError {
    const retryAfterMs = Math.max(1, this.#openedAt + this.#halfOpenAfterMs - performance.now())
    return new CircuitOpenError({ resource: this.#resource, retryAfterMs, cause: this.#cause })
  }
}
