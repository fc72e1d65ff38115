import { Script } from '../redis/script.ts'
import { APPOINT, CHANNEL, CLAIM_MS, KEEP, NOW, STATE } from './redis-lua.ts'

/*
 * The scripts begin with the case that is common: to define the functions of `STATE` takes longer than all that. Each lock
 * is one of KEYS, see there.
 */

/**
 * Takes an exclusive lock that nobody holds or waits for.
 *
 * KEYS: the lock. ARGV: token, lease in ms, who asks. Reply: the fence, or 0 where `ACQUIRE` has to look.
 */
export const TAKE = new Script(`
local k = KEYS[1]
local state = redis.call('HMGET', k, 'xt', 'f')
if state[1] or redis.call('EXISTS', k .. ':s', k .. ':q') > 0 then return 0 end
${NOW}${KEEP}
local last, leaseMs = tonumber(state[2] or '0'), tonumber(ARGV[2])
local fence = math.max(last + 1, now)
redis.call('HSET', k, 'xt', ARGV[1], 'xu', micros(now + leaseMs * 1000), 'xg', micros(now), 'xi', ARGV[3], 'f', micros(fence))
keepState(k, last, leaseMs)
return fence
`)

/**
 * Takes the locks if all of them are free, else queues for the one. Asking again with the same token changes nothing but
 * the lease.
 *
 * KEYS: the locks. ARGV: token, mode (`x`, `s`), limit (0: none), lease in ms, time to wait in ms (0: do not queue, as always with
 * several locks), the process's name of this wait, `1` where listeners can be counted, who asks.
 * Reply: `{1, fence, now}`, `{0, now, ms until a holder must have renewed, holder, held for ms}`, or the same with 2: queued.
 */
export const ACQUIRE = new Script(`${NOW}
local token, mode, limit, leaseMs, waitMs = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local info = ARGV[8]

local function queue(k, process, keptUntilMs)
  local q, w = k .. ':q', k .. ':w'
  redis.call('ZADD', q, 'NX', redis.call('HINCRBY', k, 'q', 1), token)
  redis.call('HSET', w, token, table.concat({ micros(now + waitMs * 1000), mode, limit, ARGV[4], ARGV[6], info }, ' '))
  local isNew = redis.call('ZCARD', q) == 1
  local own = token:match('^[^.]*')
  if isNew then process = own elseif process ~= own then process = '*' end
  local nowMs = math.floor(now / 1000)
  if isNew or not keptUntilMs or tonumber(keptUntilMs) < nowMs + waitMs + 1000 then
    local keptMs = waitMs * 2 + 10000
    redis.call('PEXPIRE', q, keptMs)
    redis.call('PEXPIRE', w, keptMs)
    keptUntilMs = micros(nowMs + keptMs)
  end
  redis.call('HSET', k, 'p', process, 'e', keptUntilMs)
end

if #KEYS == 1 and waitMs > 0 then
  local k = KEYS[1]
  local x = redis.call('HMGET', k, 'xt', 'xu', 'xi', 'xg', 'p', 'e')
  local untilUs = x[1] and tonumber(x[2]) or 0
  if untilUs > now and x[1] ~= token then
    queue(k, x[5], x[6])
    return {2, micros(now), math.ceil((untilUs - now) / 1000), x[3], math.floor((now - tonumber(x[4])) / 1000)}
  end
end
${STATE}
limit = tonumber(limit)
local countsListeners = ARGV[7] == '1'
local fence = 0
local blocked = nil
local known = {}
for _, k in ipairs(KEYS) do
  local state = redis.call('HMGET', k, 'xt', 'f')
  local quiet = redis.call('EXISTS', k .. ':s', k .. ':q') == 0
  if state[1] or not quiet then
    dropExpired(k)
    known[k] = true
    if not owns(k, token) then
      if not quiet then handOver(k, countsListeners) end
      -- Whoever still waits in the queue while the lock is held came first, and is not overtaken.
      local first = redis.call('ZRANGE', k .. ':q', 0, 0)[1]
      local overtakes = first and first ~= token and remaining(k) >= 0
      if not owns(k, token) and (overtakes or not isFree(k, mode, limit)) then blocked = blocked or k end
    end
  end
  if mode == 'x' then fence = math.max(fence, tonumber(state[2] or '0') + 1, now) end
end
if not blocked then
  for _, k in ipairs(KEYS) do
    if known[k] then
      leaveQueue(k, token)
      redis.call('HDEL', k, mode == 'x' and 'xc' or 'c:' .. token)
    end
    grant(k, mode, token, leaseMs, info, false, fence)
  end
  return {1, micros(fence), micros(now)}
end
local heldBy, heldMs = holder(blocked)
if waitMs == 0 then return {0, micros(now), remaining(blocked), heldBy, heldMs} end
local kept = redis.call('HMGET', blocked, 'p', 'e')
queue(blocked, kept[1], kept[2])
outlive(blocked, DAY)
return {2, micros(now), remaining(blocked), heldBy, heldMs}
`)

/**
 * Gives back the locks that the token still holds, each to the next who waits for it; where it waits itself, it leaves.
 * A lock that goes on to the same process is told of in the reply, to others by a message.
 *
 * KEYS: the locks. ARGV: token, `1` where listeners can be counted, `1` to be told who holds it now.
 * Reply: `{1}`, `{2, wait, now, fence}` where it went on to that wait, or with the third argument `{0, holder, held for ms}`.
 */
export const RELEASE = new Script(`
if #KEYS == 1 then
  local k = KEYS[1]
  local x = redis.call('HMGET', k, 'xt', 'f', 'p')
  if x[1] == ARGV[1] then
    local token = redis.call('ZRANGE', k .. ':q', 0, 0)[1]
    if not token then
      redis.call('HDEL', k, 'xt', 'xc')
      return {1}
    end
    ${NOW}
    local record = redis.call('HGET', k .. ':w', token) or ''
    local untilUs, leaseMs, wait, info = record:match('^(%d+) x %d+ (%d+) (%S+) (.*)$')
    local process = token:match('^[^.]*')
    if untilUs and tonumber(untilUs) > now then
      ${KEEP}
      local last = tonumber(x[2] or '0')
      local fence = micros(math.max(last + 1, now))
      local at = micros(now)
      local isOwn = ARGV[1]:match('^[^.]*') == process
      if isOwn or redis.call('PUBLISH', '${CHANNEL}' .. process, 'yours ' .. wait .. ' ' .. at .. ' ' .. fence) > 0 then
        redis.call('ZREM', k .. ':q', token)
        redis.call('HDEL', k .. ':w', token)
        redis.call('HSET', k, 'xt', token, 'xu', micros(now + math.min(${CLAIM_MS}, tonumber(leaseMs)) * 1000), 'xg', at, 'xi', info, 'xc', 1, 'f', fence)
        keepState(k, last, 0)
        if x[3] ~= process then
          ${APPOINT}
          appointWatch(k, process)
        end
        if isOwn then return {2, wait, at, fence} end
        return {1}
      end
    end
  end
end
${NOW}${STATE}
local token, countsListeners = ARGV[1], ARGV[2] == '1'
for _, k in ipairs(KEYS) do
  if redis.call('HGET', k, 'xt') == token then
    redis.call('HDEL', k, 'xt', 'xc')
  elseif redis.call('ZREM', k .. ':s', token) == 1 then
    redis.call('HDEL', k, 'i:' .. token, 'c:' .. token)
  else
    leaveQueue(k, token)
  end
  if redis.call('EXISTS', k .. ':q') == 1 then
    dropExpired(k)
    handOver(k, countsListeners)
  end
end
if ARGV[3] == '1' then
  local heldBy, heldMs = holder(KEYS[1])
  return {0, heldBy, heldMs}
end
return {1}
`)

/**
 * Makes the leases last at least so long, if all of them are still the token's, and the fences at least so great.
 *
 * KEYS: the locks. ARGV: token, lease in ms, fence (0: leave it). Reply: 1, or 0 where one of them is not held.
 */
export const RENEW = new Script(`${NOW}${STATE}
local token, leaseMs, fence = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
for _, k in ipairs(KEYS) do
  if not owns(k, token) then return 0 end
end
local untilUs = now + leaseMs * 1000
for _, k in ipairs(KEYS) do
  local x = redis.call('HMGET', k, 'xt', 'xu', 'f')
  if x[1] == token then
    redis.call('HDEL', k, 'xc')
    redis.call('HSET', k, 'xu', micros(math.max(untilUs, tonumber(x[2]))))
    if fence > tonumber(x[3] or '0') then redis.call('HSET', k, 'f', micros(fence)) end
  else
    redis.call('HDEL', k, 'c:' .. token)
    redis.call('ZADD', k .. ':s', 'GT', micros(untilUs), token)
    outlive(k .. ':s', leaseMs + 1000)
  end
  outlive(k, math.max(DAY, leaseMs + 1000))
end
return 1
`)

/**
 * Looks whether those who hold a lock are still there, for one who waits, and hands it over where they are not.
 *
 * KEYS: the lock. ARGV: token of the one who waits, `1` where listeners can be counted.
 * Reply: `{ms until a holder must have renewed, 1 if the token waits or holds}`.
 */
export const CHECK = new Script(`${NOW}${STATE}
local k, token, countsListeners = KEYS[1], ARGV[1], ARGV[2] == '1'
dropExpired(k)
handOver(k, countsListeners)
local known = owns(k, token) or redis.call('ZSCORE', k .. ':q', token)
return {remaining(k), known and 1 or 0}
`)
