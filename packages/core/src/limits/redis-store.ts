import type { RedisAccess } from '../redis/access.ts'
import { Script } from '../redis/script.ts'
import type { Charge, Verdict } from './store.ts'

/**
 * GCRA over several windows: checks all of them, then writes all of them or none.
 *
 * KEYS: the key of each window. ARGV: for each window what it is charged, the most its backlog may be, both in units of the
 * rate, and how many units a microsecond has, negative where the window is a shadow; see gcra.ts. Each argument costs the
 * client as much as a key does, so there are no more of them than the script needs.
 * A key holds `us:f:q`, the time at which its backlog is gone. The time is the server's own.
 * Reply: for each window its backlog afterwards; where the charge did not fit, -1 less the backlog.
 */
export const gcraScript = new Script(`
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local stored = redis.call('MGET', unpack(KEYS))
local reply, passes = {}, true
for i = 1, #KEYS do
  local at = (i - 1) * 3
  local charge, most, q = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local shadow = q < 0
  if shadow then q = -q end
  local backlog = 0
  if stored[i] then
    local us, f, oldq = string.match(stored[i], '^(%d+):(%d+):(%d+)$')
    if us then
      f, oldq = tonumber(f), tonumber(oldq)
      if oldq ~= q then f = math.floor(f * q / oldq) end
      backlog = math.max(0, math.min(most, (tonumber(us) - now) * q + f))
    end
  end
  if backlog + charge <= most then
    reply[i] = backlog
  else
    reply[i] = -1 - backlog
    if not shadow then passes = false end
  end
end
if passes then
  for i = 1, #KEYS do
    local at = (i - 1) * 3
    local charge = tonumber(ARGV[at + 1])
    if reply[i] >= 0 and charge ~= 0 then
      local q = math.abs(tonumber(ARGV[at + 3]))
      local backlog = math.max(0, reply[i] + charge)
      local whole = math.floor(backlog / q)
      if backlog == 0 then
        redis.call('DEL', KEYS[i])
      else
        redis.call('SET', KEYS[i], string.format('%.0f:%.0f:%.0f', now + whole, backlog % q, q),
          'PX', string.format('%.0f', math.floor(whole / 1000) + 1))
      end
      reply[i] = backlog
    end
  end
end
return reply
`)

/** What the script is given for these charges, after the keys. */
export function gcraArguments(charges: readonly Charge[]): number[] {
  const args: number[] = []
  for (const { rate, cost, shadow } of charges) args.push(cost * rate.p, rate.p * rate.burst, shadow ? -rate.q : rate.q)
  return args
}

/** What the script replied. */
export function gcraVerdicts(reply: readonly number[]): Verdict[] {
  return reply.map((backlog) => (backlog >= 0 ? { fits: true, backlog } : { fits: false, backlog: -1 - backlog }))
}

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
  consume(charges: readonly Charge[], timeoutMs: number): Promise<Verdict[]> {
    const keys = charges.map(({ key }) => key)
    return this.#redis.run(gcraScript, keys, gcraArguments(charges), { timeoutMs }).then(gcraVerdicts as never)
  }
}
