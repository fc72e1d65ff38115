import { Script } from '../redis/script.ts'

/**
 * What the scripts share. Every lock has four keys, in one slot:
 *
 * - its state, a hash: `xt` the exclusive holder's token (without one, the rest of `x…` is of the last holder), `xu` until when (µs), `xg` since when, `xi` who it is, `xc` the
 *   channel of the process it was handed to and that has not renewed it yet; `f` the last fence, `q` the last ticket of the
 *   queue; for shared holders `i:<token>` and `c:<token>`, as `xi` and `xc`
 * - its shared holders, a sorted set of tokens by until when
 * - its queue, a sorted set of tokens by ticket
 * - its waiters, a hash of what each token in the queue wants
 *
 * Time is the server's, in microseconds. The state outlives its last holder by a day: after that the time itself is a
 * greater fence than any before.
 */
const PRELUDE = `
local STATE, SHARERS, QUEUE, WAITERS = 0, 1, 2, 3
local DAY = 86400000

-- Those whom a lock was handed to and who never answered: their process is gone or stands still, so its other waiters
-- would not answer either. Should it wake up, it asks again for each of them.
local function forgetProcess(k, channel)
  local all = redis.call('HGETALL', KEYS[k + WAITERS])
  for i = 1, #all, 2 do
    if cjson.decode(all[i + 1]).c == channel then
      redis.call('HDEL', KEYS[k + WAITERS], all[i])
      redis.call('ZREM', KEYS[k + QUEUE], all[i])
    end
  end
end

local function dropExpired(k)
  local x = redis.call('HMGET', KEYS[k + STATE], 'xt', 'xu', 'xc')
  if x[1] and tonumber(x[2]) <= now then
    redis.call('HDEL', KEYS[k + STATE], 'xt', 'xc')
    if x[3] then forgetProcess(k, x[3]) end
  end
  for _, token in ipairs(redis.call('ZRANGEBYSCORE', KEYS[k + SHARERS], '-inf', micros(now))) do
    local channel = redis.call('HGET', KEYS[k + STATE], 'c:' .. token)
    redis.call('ZREM', KEYS[k + SHARERS], token)
    redis.call('HDEL', KEYS[k + STATE], 'i:' .. token, 'c:' .. token)
    if channel then forgetProcess(k, channel) end
  end
end

-- After dropExpired.
local function isFree(k, mode, limit)
  if redis.call('HEXISTS', KEYS[k + STATE], 'xt') == 1 then return false end
  local sharers = redis.call('ZCARD', KEYS[k + SHARERS])
  if mode == 'x' then return sharers == 0 end
  return limit == 0 or sharers < limit
end

local function nextFence(k)
  local last = tonumber(redis.call('HGET', KEYS[k + STATE], 'f') or '0')
  return math.max(last + 1, now)
end

local function outlive(key, ms)
  if redis.call('PTTL', key) < ms then redis.call('PEXPIRE', key, ms) end
end

local function grant(k, mode, token, leaseMs, info, channel, fence)
  local untilUs = now + leaseMs * 1000
  if mode == 'x' then
    redis.call('HSET', KEYS[k + STATE], 'xt', token, 'xu', micros(untilUs), 'xg', micros(now), 'xi', info, 'f', micros(fence))
    if channel then redis.call('HSET', KEYS[k + STATE], 'xc', channel) end
  else
    redis.call('ZADD', KEYS[k + SHARERS], micros(untilUs), token)
    outlive(KEYS[k + SHARERS], leaseMs + 1000)
    redis.call('HSET', KEYS[k + STATE], 'i:' .. token, micros(now) .. ' ' .. info)
    if channel then redis.call('HSET', KEYS[k + STATE], 'c:' .. token, channel) end
  end
  redis.call('PEXPIRE', KEYS[k + STATE], math.max(DAY, leaseMs + 1000))
end

local function leaveQueue(k, token)
  redis.call('HDEL', KEYS[k + WAITERS], token)
  return redis.call('ZREM', KEYS[k + QUEUE], token)
end

-- The next in line of another process sees to it that those who were handed the lock have taken it. A token begins with
-- the name of its process.
local function appointWatch(k, handed)
  local process = handed:match('^[^.]*')
  local all = redis.call('ZRANGE', KEYS[k + QUEUE], 0, 31)
  local found = all[1]
  for _, token in ipairs(all) do
    if token:match('^[^.]*') ~= process then
      found = token
      break
    end
  end
  local json = found and redis.call('HGET', KEYS[k + WAITERS], found)
  if json then
    local waiter = cjson.decode(json)
    redis.call('PUBLISH', waiter.c, 'next ' .. waiter.n)
  end
end

-- Hands the lock to whoever waits longest, for a short lease that the new holder renews; shared ones to several. Where
-- nobody listens to a waiter's channel its process is away: it keeps its place, and the next one is asked. After
-- dropExpired. countsListeners is false in a cluster, whose nodes know only their own subscribers.
local function handOver(k, claimMs, countsListeners)
  local place = 0
  local handed = nil
  while true do
    local token = redis.call('ZRANGE', KEYS[k + QUEUE], place, place)[1]
    if not token then return end
    local json = redis.call('HGET', KEYS[k + WAITERS], token)
    local waiter = json and cjson.decode(json)
    if not waiter or tonumber(waiter.u) <= now then
      leaveQueue(k, token)
    elseif not isFree(k, waiter.m, waiter.l) then
      if handed then appointWatch(k, handed) end
      return
    else
      local fence = waiter.m == 'x' and nextFence(k) or 0
      local listeners = redis.call('PUBLISH', waiter.c, 'yours ' .. micros(now) .. ' ' .. micros(fence) .. ' ' .. token .. ' ' .. waiter.n)
      if listeners == 0 and countsListeners then
        place = place + 1
      else
        leaveQueue(k, token)
        grant(k, waiter.m, token, math.min(claimMs, waiter.t), waiter.i, waiter.c, fence)
        handed = token
      end
    end
  end
end

-- How long, in milliseconds, until the first of those who hold it now must have renewed or it is free; -1 if nobody does.
local function remaining(k)
  local x = redis.call('HMGET', KEYS[k + STATE], 'xt', 'xu')
  local first = x[1] and tonumber(x[2])
  if not first then
    local sharer = redis.call('ZRANGE', KEYS[k + SHARERS], 0, 0, 'WITHSCORES')
    first = sharer[2] and tonumber(sharer[2])
  end
  return first and math.max(0, math.ceil((first - now) / 1000)) or -1
end

-- Who holds it, and since how many milliseconds.
local function holder(k)
  local x = redis.call('HMGET', KEYS[k + STATE], 'xt', 'xi', 'xg')
  if x[1] then return x[2], math.floor((now - tonumber(x[3])) / 1000) end
  local sharer = redis.call('ZRANGE', KEYS[k + SHARERS], 0, 0)[1]
  local noted = sharer and redis.call('HGET', KEYS[k + STATE], 'i:' .. sharer)
  if not noted then return '', 0 end
  local since, info = noted:match('^(%d+) (.*)$')
  return info, math.floor((now - tonumber(since)) / 1000)
end

local function owns(k, token)
  if redis.call('HGET', KEYS[k + STATE], 'xt') == token then return 'x' end
  if redis.call('ZSCORE', KEYS[k + SHARERS], token) then return 's' end
  return nil
end
`

const NOW = `
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local function micros(n) return string.format('%.0f', n) end
`

/*
 * Each script begins with the case that is common, a single exclusive lock nobody waits for: to define the functions of the
 * prelude takes longer than all that.
 */

/**
 * Takes the locks if all of them are free, else queues for the one. Asking again with the same token changes nothing but
 * the lease.
 *
 * KEYS: four for each lock. ARGV: token, mode (`x`, `s`), limit (0: none), lease in ms, wait in ms (0: do not queue, as
 * always with several locks), channel, name of the lock, claim in ms, `1` where listeners can be counted, who asks.
 * Reply: `{1, fence, now}`, `{0, now, ms until a holder must have renewed, holder, held for ms}`, or the same with 2: queued.
 */
export const ACQUIRE = new Script(`${NOW}
if #KEYS == 4 and ARGV[2] == 'x' then
  local state = redis.call('HMGET', KEYS[1], 'xt', 'f')
  if not state[1] and redis.call('EXISTS', KEYS[2], KEYS[3]) == 0 then
    local last, nowText, leaseMs = tonumber(state[2] or '0'), micros(now), tonumber(ARGV[4])
    local fence = last < now and nowText or micros(last + 1)
    redis.call('HSET', KEYS[1], 'xt', ARGV[1], 'xu', micros(now + leaseMs * 1000), 'xg', nowText, 'xi', ARGV[10], 'f', fence)
    -- The last fence tells how long ago the key was made to last for a day.
    if now - last > 3600000000 or leaseMs > 3600000 then redis.call('PEXPIRE', KEYS[1], math.max(86400000, leaseMs * 2)) end
    return {1, fence, nowText}
  end
end
${PRELUDE}
local token, mode, limit, leaseMs, waitMs = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local channel, name, claimMs, countsListeners, info = ARGV[6], ARGV[7], tonumber(ARGV[8]), ARGV[9] == '1', ARGV[10]
local fence = 0
local blocked = nil
local known = {}
for k = 1, #KEYS, 4 do
  local state = redis.call('HMGET', KEYS[k + STATE], 'xt', 'f')
  local quiet = redis.call('EXISTS', KEYS[k + SHARERS], KEYS[k + QUEUE]) == 0
  if state[1] or not quiet then
    dropExpired(k)
    known[k] = true
    if not owns(k, token) then
      if not quiet then handOver(k, claimMs, countsListeners) end
      -- Whoever still waits in the queue while the lock is held came first, and is not overtaken.
      local first = redis.call('ZRANGE', KEYS[k + QUEUE], 0, 0)[1]
      local overtakes = first and first ~= token and remaining(k) >= 0
      if not owns(k, token) and (overtakes or not isFree(k, mode, limit)) then blocked = blocked or k end
    end
  end
  if mode == 'x' then fence = math.max(fence, tonumber(state[2] or '0') + 1, now) end
end
if not blocked then
  for k = 1, #KEYS, 4 do
    if known[k] then
      leaveQueue(k, token)
      redis.call('HDEL', KEYS[k + STATE], mode == 'x' and 'xc' or 'c:' .. token)
    end
    grant(k, mode, token, leaseMs, info, false, fence)
  end
  return {1, micros(fence), micros(now)}
end
local heldBy, heldMs = holder(blocked)
if waitMs == 0 then return {0, micros(now), remaining(blocked), heldBy, heldMs} end
if not redis.call('ZSCORE', KEYS[QUEUE + 1], token) then
  redis.call('ZADD', KEYS[QUEUE + 1], redis.call('HINCRBY', KEYS[STATE + 1], 'q', 1), token)
  outlive(KEYS[STATE + 1], DAY)
end
redis.call('HSET', KEYS[WAITERS + 1], token, cjson.encode({
  u = micros(now + waitMs * 1000), m = mode, l = limit, t = leaseMs, c = channel, n = name, i = info,
}))
outlive(KEYS[QUEUE + 1], waitMs + 1000)
outlive(KEYS[WAITERS + 1], waitMs + 1000)
return {2, micros(now), remaining(1), heldBy, heldMs}
`)

/**
 * Gives back the locks that the token still holds, each to the next who waits for it; where it waits itself, it leaves.
 *
 * KEYS: four for each lock. ARGV: token, claim in ms, `1` where listeners can be counted, `1` to be told who holds it now.
 * Reply: `{how many were held, holder, held for ms}`.
 */
export const RELEASE = new Script(`
if #KEYS == 4 and redis.call('EXISTS', KEYS[3]) == 0 and redis.call('HGET', KEYS[1], 'xt') == ARGV[1] then
  redis.call('HDEL', KEYS[1], 'xt', 'xc')
  return {1, '', 0}
end
${NOW}${PRELUDE}
local token, claimMs, countsListeners = ARGV[1], tonumber(ARGV[2]), ARGV[3] == '1'
local held = 0
for k = 1, #KEYS, 4 do
  if redis.call('HGET', KEYS[k + STATE], 'xt') == token then
    redis.call('HDEL', KEYS[k + STATE], 'xt', 'xc')
    held = held + 1
  elseif redis.call('ZREM', KEYS[k + SHARERS], token) == 1 then
    redis.call('HDEL', KEYS[k + STATE], 'i:' .. token, 'c:' .. token)
    held = held + 1
  else
    leaveQueue(k, token)
  end
  if redis.call('EXISTS', KEYS[k + QUEUE]) == 1 then
    dropExpired(k)
    handOver(k, claimMs, countsListeners)
  end
end
if ARGV[4] == '1' then
  local heldBy, heldMs = holder(1)
  return {held, heldBy, heldMs}
end
return {held}
`)

/**
 * Makes the leases last at least so long, if all of them are still the token's, and the fences at least so great.
 *
 * KEYS: four for each lock. ARGV: token, lease in ms, fence (0: leave it). Reply: 1, or 0 where one of them is not held.
 */
export const RENEW = new Script(`${NOW}${PRELUDE}
local token, leaseMs, fence = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
for k = 1, #KEYS, 4 do
  if not owns(k, token) then return 0 end
end
local untilUs = now + leaseMs * 1000
for k = 1, #KEYS, 4 do
  local x = redis.call('HMGET', KEYS[k + STATE], 'xt', 'xu', 'f')
  if x[1] == token then
    redis.call('HDEL', KEYS[k + STATE], 'xc')
    redis.call('HSET', KEYS[k + STATE], 'xu', micros(math.max(untilUs, tonumber(x[2]))))
    if fence > tonumber(x[3] or '0') then redis.call('HSET', KEYS[k + STATE], 'f', micros(fence)) end
  else
    redis.call('HDEL', KEYS[k + STATE], 'c:' .. token)
    redis.call('ZADD', KEYS[k + SHARERS], 'GT', micros(untilUs), token)
    outlive(KEYS[k + SHARERS], leaseMs + 1000)
  end
  outlive(KEYS[k + STATE], math.max(DAY, leaseMs + 1000))
end
return 1
`)

/**
 * Looks whether those who hold a lock are still there, for one who waits, and hands it over where they are not.
 *
 * KEYS: four. ARGV: token of the one who waits, claim in ms, `1` where listeners can be counted.
 * Reply: `{ms until a holder must have renewed, 1 if the token waits or holds}`.
 */
export const CHECK = new Script(`${NOW}${PRELUDE}
local token, claimMs, countsListeners = ARGV[1], tonumber(ARGV[2]), ARGV[3] == '1'
dropExpired(1)
handOver(1, claimMs, countsListeners)
local known = owns(1, token) or redis.call('ZSCORE', KEYS[QUEUE + 1], token)
return {remaining(1), known and 1 or 0}
`)
