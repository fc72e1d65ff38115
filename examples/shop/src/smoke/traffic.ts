/** What the smoke test tells the load driver. */
export interface Plan {
  readonly url: string
  readonly seconds: number
  readonly connections: number
  readonly seed: number
  /** Whether the shop has a Redis: else it reserves nothing and has no market. */
  readonly hasRedis: boolean
  /** The part of the requests that the client aborts. */
  readonly abortedShare: number
  readonly products: number
  readonly customers: number
  /** Order lines there were before the traffic: the report has at least as many. */
  readonly reportLines: number
}

/** Something that did not go as a client expects. Whether a fault explains it is for the verdict to say. */
export interface Trouble {
  readonly kind: 'server error' | 'cut off' | 'no answer' | 'wrong answer'
  readonly route: string
  readonly status?: number
  readonly contentType?: string
  /** The `code` of a typed error. */
  readonly code?: string
  readonly what: string
  /** When the request was sent and when its answer ended, in milliseconds since the epoch. */
  readonly startedAt: number
  readonly endedAt: number
}

export interface RouteTraffic {
  readonly complete: number
  readonly aborted: number
  readonly medianMs: number
  readonly slowestMs: number
  readonly statuses: Readonly<Record<number, number>>
}

/** What the load driver tells the smoke test. */
export interface Traffic {
  readonly requests: number
  readonly aborted: number
  readonly routes: Readonly<Record<string, RouteTraffic>>
  readonly troubles: readonly Trouble[]
  /** The orders that were answered with 201. */
  readonly acknowledgedOrders: readonly number[]
}
