-- Admits calls, each against all of its budgets or none, and charges what is known to be spent.
--
-- KEYS: the budgets of all calls, call by call.
-- ARGV: the time (ms), how long a permit lasts (ms), then for each call: how many budgets it draws
--   on, its permit's name, and for each of them: kind, limit and step (ms). Kinds: c counts calls,
--   t tokens, r calls that run; s is charged its "limit" as an amount and never refuses.
-- Answers for each call: the number of the first budget that refuses it, 0 when it was admitted;
--   then for each budget how much is used, when it frees (ms), and 1 when 80 % of the limit are
--   reached for the first time in a window's width.
--
-- A window is a hash: counts by step, u their sum, a and z the oldest and the newest step, n until
-- when nobody need be told of 80 %. A step counts until all of it has left the window.
local STEPS = 240
local now, lasts = tonumber(ARGV[1]), tonumber(ARGV[2])

-- Forgets what has left a window, and finds the oldest step that has not.
local function expire(key, window, bound)
  local dead, step = {}, window.oldest
  while step <= window.newest do
    local fields = {}
    for i = step, math.min(step + 31, window.newest) do fields[#fields + 1] = i end
    local counts = redis.call('HMGET', key, unpack(fields))
    for i, field in ipairs(fields) do
      local count = tonumber(counts[i] or nil)
      if count and field > bound then
        window.oldest = field
        redis.call('HSET', key, 'u', window.used, 'a', field)
        redis.call('HDEL', key, unpack(dead))
        return
      elseif count then
        window.used = window.used - count
        dead[#dead + 1] = field
      end
    end
    step = step + 32
  end
end

local function open(key, step)
  local current = math.floor(now / step)
  local found = redis.call('HMGET', key, 'u', 'a', 'z', 'n', current)
  local window = {
    used = tonumber(found[1] or 0), oldest = tonumber(found[2] or nil),
    newest = tonumber(found[3] or nil), quiet = tonumber(found[4] or 0),
    count = tonumber(found[5] or 0), current = current,
  }
  if not window.newest then return window end
  local bound = current - STEPS - 1
  if window.newest <= bound then
    redis.call('DEL', key)
    window.used, window.oldest, window.newest, window.count = 0, nil, nil, 0
  elseif window.oldest <= bound then
    expire(key, window, bound)
  end
  if window.newest and window.newest > current then
    -- Another server's clock is ahead: a window's time never runs back.
    window.current = window.newest
    window.count = tonumber(redis.call('HGET', key, window.newest) or 0)
  end
  return window
end

local function charge(key, window, step, amount)
  window.used, window.count = window.used + amount, window.count + amount
  window.oldest, window.newest = window.oldest or window.current, window.current
  redis.call('HSET', key, 'u', window.used, 'a', window.oldest, 'z', window.newest,
    window.current, window.count)
  if window.count == amount then redis.call('PEXPIRE', key, step * (STEPS + 2) + 5000) end
end

-- When the next step leaves, or, of a full window, when less than the limit is used.
local function frees(key, window, step, limit)
  if not window.oldest then return now end
  if window.used < limit then return (window.oldest + STEPS + 1) * step end
  local left = window.used
  for i = window.oldest, window.newest do
    left = left - tonumber(redis.call('HGET', key, i) or 0)
    if left < limit then return (i + STEPS + 1) * step end
  end
  return (window.newest + STEPS + 1) * step
end

local function running(key, limit)
  local found = redis.call('ZCARD', key)
  if found >= limit then
    redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
    found = redis.call('ZCARD', key)
  end
  return found
end

local function standing(answer, budget, admitted)
  local key, window = budget.key, budget.window
  if budget.kind == 'r' then
    if admitted then
      redis.call('ZADD', key, now + lasts, budget.permit)
      redis.call('PEXPIRE', key, lasts + 60000)
      budget.used = budget.used + 1
    end
    answer[#answer + 1], answer[#answer + 2], answer[#answer + 3] = budget.used, now + 1000, 0
    return
  end
  if budget.kind == 'c' and admitted then charge(key, window, budget.step, 1) end
  if budget.kind == 's' then charge(key, window, budget.step, budget.limit) end
  local reached = 0
  if budget.kind ~= 's' and now >= window.quiet and window.newest
    and window.used >= budget.limit * 0.8 then
    reached = 1
    redis.call('HSET', key, 'n', now + STEPS * budget.step)
  end
  answer[#answer + 1] = window.used
  answer[#answer + 1] = frees(key, window, budget.step, budget.limit)
  answer[#answer + 1] = reached
end

local at, next_key, answers = 3, 1, {}
while at <= #ARGV do
  local count, permit = tonumber(ARGV[at]), ARGV[at + 1]
  local budgets, refused = {}, 0
  at = at + 2
  for i = 1, count do
    local budget = {
      key = KEYS[next_key], kind = ARGV[at], limit = tonumber(ARGV[at + 1]),
      step = tonumber(ARGV[at + 2]), permit = permit,
    }
    at, next_key = at + 3, next_key + 1
    if budget.kind == 'r' then
      budget.used = running(budget.key, budget.limit)
    else
      budget.window = open(budget.key, budget.step)
      budget.used = budget.window.used
    end
    if refused == 0 and budget.kind ~= 's' and budget.used >= budget.limit then refused = i end
    budgets[i] = budget
  end
  local answer = { refused }
  for _, budget in ipairs(budgets) do standing(answer, budget, refused == 0) end
  answers[#answers + 1] = answer
end
return answers
