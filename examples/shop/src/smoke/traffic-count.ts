import type { RouteTraffic, Traffic, Trouble } from './traffic.ts'

interface RouteCount {
  complete: number
  aborted: number
  broken: number
  /** Follows the latest answers. */
  typicalMs: number
  durationsMs: number[]
  statuses: Record<number, number>
}

/** Counts the traffic, route by route. */
export class TrafficCount {
  readonly #routes = new Map<string, RouteCount>()
  readonly #troubles: Trouble[] = []

  complete(route: string, status: number, tookMs: number): void {
    const count = this.#of(route)
    count.complete += 1
    count.durationsMs.push(tookMs)
    count.typicalMs += (tookMs - count.typicalMs) / 20
    count.statuses[status] = (count.statuses[status] ?? 0) + 1
  }

  aborted(route: string): void {
    this.#of(route).aborted += 1
  }

  broken(route: string): void {
    this.#of(route).broken += 1
  }

  trouble(trouble: Trouble): void {
    this.#troubles.push(trouble)
  }

  /** How long an answer of this route takes at present. */
  typicalMs(route: string): number {
    return this.#of(route).typicalMs
  }

  result(acknowledgedOrders: readonly number[]): Traffic {
    const counts = [...this.#routes.values()]
    return {
      requests: counts.reduce((sum, { complete, aborted, broken }) => sum + complete + aborted + broken, 0),
      aborted: counts.reduce((sum, { aborted }) => sum + aborted, 0),
      routes: Object.fromEntries([...this.#routes].sort().map(([route, count]) => [route, summary(count)])),
      troubles: this.#troubles,
      acknowledgedOrders,
    }
  }

  #of(route: string): RouteCount {
    let count = this.#routes.get(route)
    if (count === undefined) {
      count = { complete: 0, aborted: 0, broken: 0, typicalMs: 10, durationsMs: [], statuses: {} }
      this.#routes.set(route, count)
    }
    return count
  }
}

function summary({ complete, aborted, durationsMs, statuses }: RouteCount): RouteTraffic {
  const sorted = durationsMs.sort((one, other) => one - other)
  return { complete, aborted, medianMs: sorted[sorted.length >> 1] ?? 0, slowestMs: sorted.at(-1) ?? 0, statuses }
}
