/** The plainest limiter there is: a bucket for each subject, in fractions of whole numbers. Slow, and easy to believe. */
export class ReferenceLimiter {
  readonly #buckets = new Map<string, { used: bigint; at: bigint }>()

  /** Whether all of them have room at `nowUs`; then all are charged. */
  admits(
    charges: readonly { key: string; limit: number; windowUs: number; burst: number; cost: number }[],
    nowUs: bigint,
  ): boolean {
    const after = charges.map(({ key, limit, windowUs, burst, cost }) => {
      const window = BigInt(windowUs)
      const full = BigInt(burst) * window
      // Used is counted in requests × window: a microsecond gives `limit` of that back.
      const bucket = this.#buckets.get(key) ?? { used: 0n, at: nowUs }
      const left = bucket.used - (nowUs - bucket.at) * BigInt(limit)
      const used = (left < 0n ? 0n : left > full ? full : left) + BigInt(cost) * window
      return { key, used, cost, fits: used <= full }
    })
    if (after.some(({ fits }) => !fits)) return false
    // What takes nothing leaves the bucket alone.
    for (const { key, used, cost } of after) if (cost > 0) this.#buckets.set(key, { used, at: nowUs })
    return true
  }
}

/** Random numbers that are the same each time. */
export function randomNumbers(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296
  }
}
