/** For how long a lock is handed to somebody who waits; by then it has been renewed, or its holder is gone. */
export const CLAIM_MS = 1_000

/**
 * What a release or a message says of a lock that was handed over, and where messages go: a channel for each process, which
 * is the part of its tokens before the dot.
 */
export const CHANNEL = 'reqscope:locks:'

/** The server's time in microseconds. Numbers of that size are sent as text, lest they be rounded. */
export const NOW = `
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local function micros(n) return string.format('%.0f', n) end
`

/**
 * `appointWatch(k, process)`: the next in line of another process than the one that was handed the lock sees to it that it
 * has taken it.
 */
export const APPOINT = `
local function appointWatch(k, process)
  local from = 0
  while true do
    local tokens = redis.call('ZRANGE', k .. ':q', from, from + 15)
    if #tokens == 0 then return end
    for _, token in ipairs(tokens) do
      local own = token:match('^[^.]*')
      if own ~= process then
        local record = redis.call('HGET', k .. ':w', token)
        if record then redis.call('PUBLISH', '${CHANNEL}' .. own, 'next ' .. record:match('^%d+ %a %d+ %d+ (%S+)')) end
        return
      end
    end
    from = from + 16
  end
end
`

/**
 * `keepState(k, last, leaseMs)`: a state lasts for a day at least, and that is seen to with the first grant of every hour; the
 * last fence tells when the one before was.
 */
export const KEEP = `
local function keepState(k, last, leaseMs)
  if math.floor(last / 3600000000) ~= math.floor(now / 3600000000) or leaseMs > 3600000 then
    redis.call('PEXPIRE', k, math.max(86400000, leaseMs * 2))
  end
end
`

/**
 * How a lock is kept, for the scripts. Every lock has four keys in one slot; the scripts are given the first, and make the
 * others of it:
 *
 * - its state, a hash: `xt` the exclusive holder's token (without one, the rest of `x…` is of the last holder), `xu` until when, `xg` since when, `xi` who it is, `xc` while it was
 *   handed over and has not renewed it yet; `f` the last fence, `q` the last ticket of the queue, `p` the process that all in the queue
 *   are of (`*`: of several), `e` until when the queue is kept (ms); for shared holders `i:<token>` and `c:<token>`, as `xi` and `xc`
 * - `:s`, its shared holders, a sorted set of tokens by until when
 * - `:q`, its queue, a sorted set of tokens by ticket
 * - `:w`, its waiters, a hash of what each token in the queue wants: until when it waits, mode, limit, lease in ms, the name its
 *   process has for the wait, and who it is
 *
 * The state outlives its last holder by a day: after that the time itself is a greater fence than any before.
 */
export const STATE = `${APPOINT}
local DAY = 86400000

local function processOf(token) return token:match('^[^.]*') end

local function waiterOf(k, token)
  local record = redis.call('HGET', k .. ':w', token)
  if not record then return nil end
  local untilUs, mode, limit, leaseMs, wait, info = record:match('^(%d+) (%a) (%d+) (%d+) (%S+) (.*)$')
  if not untilUs then return nil end
  return { untilUs = tonumber(untilUs), mode = mode, limit = tonumber(limit), leaseMs = tonumber(leaseMs), wait = wait, info = info }
end

-- Those whom a lock was handed to and who never answered: their process is gone or stands still, so its other waiters
-- would not answer either. Should it wake up, it asks again for each of them.
local function forgetProcess(k, process)
  for _, token in ipairs(redis.call('HKEYS', k .. ':w')) do
    if processOf(token) == process then
      redis.call('HDEL', k .. ':w', token)
      redis.call('ZREM', k .. ':q', token)
    end
  end
end

local function dropExpired(k)
  local x = redis.call('HMGET', k, 'xt', 'xu', 'xc')
  if x[1] and tonumber(x[2]) <= now then
    redis.call('HDEL', k, 'xt', 'xc')
    if x[3] then forgetProcess(k, processOf(x[1])) end
  end
  for _, token in ipairs(redis.call('ZRANGEBYSCORE', k .. ':s', '-inf', micros(now))) do
    local isClaim = redis.call('HEXISTS', k, 'c:' .. token) == 1
    redis.call('ZREM', k .. ':s', token)
    redis.call('HDEL', k, 'i:' .. token, 'c:' .. token)
    if isClaim then forgetProcess(k, processOf(token)) end
  end
end

-- After dropExpired.
local function isFree(k, mode, limit)
  if redis.call('HEXISTS', k, 'xt') == 1 then return false end
  local sharers = redis.call('ZCARD', k .. ':s')
  if mode == 'x' then return sharers == 0 end
  return limit == 0 or sharers < limit
end

local function nextFence(k)
  local last = tonumber(redis.call('HGET', k, 'f') or '0')
  return math.max(last + 1, now)
end

local function outlive(key, ms)
  if redis.call('PTTL', key) < ms then redis.call('PEXPIRE', key, ms) end
end

local function grant(k, mode, token, leaseMs, info, isClaim, fence)
  local untilUs = now + leaseMs * 1000
  if mode == 'x' then
    redis.call('HSET', k, 'xt', token, 'xu', micros(untilUs), 'xg', micros(now), 'xi', info, 'f', micros(fence))
    if isClaim then redis.call('HSET', k, 'xc', 1) end
  else
    redis.call('ZADD', k .. ':s', micros(untilUs), token)
    outlive(k .. ':s', leaseMs + 1000)
    redis.call('HSET', k, 'i:' .. token, micros(now) .. ' ' .. info)
    if isClaim then redis.call('HSET', k, 'c:' .. token, 1) end
  end
  redis.call('PEXPIRE', k, math.max(DAY, leaseMs + 1000))
end

local function leaveQueue(k, token)
  redis.call('HDEL', k .. ':w', token)
  return redis.call('ZREM', k .. ':q', token)
end

-- Hands the lock to whoever waits longest, for a short lease that the new holder renews; shared ones to several. Where
-- nobody listens to a waiter's channel its process is away: it keeps its place, and the next one is asked. After
-- dropExpired. countsListeners is false in a cluster, whose nodes know only their own subscribers.
local function handOver(k, countsListeners)
  local place = 0
  local handed = nil
  while true do
    local token = redis.call('ZRANGE', k .. ':q', place, place)[1]
    if not token then return end
    local waiter = waiterOf(k, token)
    if not waiter or waiter.untilUs <= now then
      leaveQueue(k, token)
    elseif not isFree(k, waiter.mode, waiter.limit) then
      if handed and redis.call('HGET', k, 'p') ~= handed then appointWatch(k, handed) end
      return
    else
      local fence = waiter.mode == 'x' and nextFence(k) or 0
      local listeners = redis.call('PUBLISH', '${CHANNEL}' .. processOf(token), 'yours ' .. waiter.wait .. ' ' .. micros(now) .. ' ' .. micros(fence))
      if listeners == 0 and countsListeners then
        place = place + 1
      else
        leaveQueue(k, token)
        grant(k, waiter.mode, token, math.min(${CLAIM_MS}, waiter.leaseMs), waiter.info, true, fence)
        handed = processOf(token)
      end
    end
  end
end

-- How long, in milliseconds, until the first of those who hold it now must have renewed or it is free; -1 if nobody does.
local function remaining(k)
  local x = redis.call('HMGET', k, 'xt', 'xu')
  local first = x[1] and tonumber(x[2])
  if not first then
    local sharer = redis.call('ZRANGE', k .. ':s', 0, 0, 'WITHSCORES')
    first = sharer[2] and tonumber(sharer[2])
  end
  return first and math.max(0, math.ceil((first - now) / 1000)) or -1
end

-- Who holds it, and since how many milliseconds.
local function holder(k)
  local x = redis.call('HMGET', k, 'xt', 'xi', 'xg')
  if x[1] then return x[2], math.floor((now - tonumber(x[3])) / 1000) end
  local sharer = redis.call('ZRANGE', k .. ':s', 0, 0)[1]
  local noted = sharer and redis.call('HGET', k, 'i:' .. sharer)
  if not noted then return '', 0 end
  local since, info = noted:match('^(%d+) (.*)$')
  return info, math.floor((now - tonumber(since)) / 1000)
end

local function owns(k, token)
  if redis.call('HGET', k, 'xt') == token then return 'x' end
  if redis.call('ZSCORE', k .. ':s', token) then return 's' end
  return nil
end
`
