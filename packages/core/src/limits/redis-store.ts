import type { RedisAccess } from '../redis/access.ts'
import { Script } from '../redis/script.ts'
import type { Charge, Verdict } from './store.ts'

/**
 * GCRA over several windows: checks all of them, then writes all of them or none.
 *
 * KEYS: the key of each window. ARGV: for each window p, q, burst, cost, and 1 where it is a shadow, else 0; see gcra.ts.
 * A key holds `us:f:q`, the time at which its backlog is gone. The time is the server's own.
 * Reply: for each window 1 where the charge fitted, else 0, and its backlog afterwards; then the time of the decision, in µs.
 */
export const gcraScript = new Script(`
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local stored = redis.call('MGET', unpack(KEYS))
local reply, passes = {}, true
for i = 1, #KEYS do
  local at = (i - 1) * 5
  local p, q, burst, cost = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
  local backlog = 0
  if stored[i] then
    local us, f, oldq = string.match(stored[i], '^(%d+):(%d+):(%d+)$')
    if us then
      f, oldq = tonumber(f), tonumber(oldq)
      if oldq ~= q then f = math.floor(f * q / oldq) end
      backlog = math.max(0, math.min(p * burst, (tonumber(us) - now) * q + f))
    end
  end
  local fits = backlog + cost * p <= p * burst
  if not fits and ARGV[at + 5] == '0' then passes = false end
  reply[2 * i - 1] = fits and 1 or 0
  reply[2 * i] = backlog
end
if passes then
  for i = 1, #KEYS do
    local at = (i - 1) * 5
    local cost = tonumber(ARGV[at + 4])
    if reply[2 * i - 1] == 1 and cost ~= 0 then
      local q = tonumber(ARGV[at + 2])
      local backlog = math.max(0, reply[2 * i] + cost * tonumber(ARGV[at + 1]))
      local whole = math.floor(backlog / q)
      if backlog == 0 then
        redis.call('DEL', KEYS[i])
      else
        redis.call('SET', KEYS[i], string.format('%.0f:%.0f:%.0f', now + whole, backlog % q, q),
          'PX', string.format('%.0f', math.floor(whole / 1000) + 1))
      end
      reply[2 * i] = backlog
    end
  end
end
reply[#reply + 1] = now
return reply
`)

/** Counts that all processes share, decided by Redis on its own clock. */
export class RedisStore {
  readonly #redis: RedisAccess

  constructor(redis: RedisAccess) {
    this.#redis = redis
  }

  /** Where it is one, windows whose keys do not share a slot need a round trip each. */
  get isCluster(): boolean {
    return this.#redis.isCluster
  }

  /**
   * Decides on all charges in one round trip: consumes in each window with room, or in none at all.
   *
   * @throws ConnectionLostError when Redis does not answer within `timeoutMs`.
   */
  async consume(charges: readonly Charge[], timeoutMs: number): Promise<Verdict[]> {
    const args: number[] = []
    const keys: string[] = []
    for (const { key, rate, cost, shadow } of charges) {
      keys.push(key)
      args.push(rate.p, rate.q, rate.burst, cost, shadow ? 1 : 0)
    }
    const reply = (await this.#redis.run(gcraScript, keys, args, { timeoutMs })) as number[]
    return charges.map((_, index) => ({ fits: reply[2 * index] === 1, backlog: reply[2 * index + 1] as number }))
  }
}
