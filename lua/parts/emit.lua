-- Emission: what a plan (schemas/plan.py) makes of new tokens, and what that releases. Expects: parts/token.
-- A plan's values are indexes into ARGV: payload goes through as text.
-- The index of the pass of the innermost loop; outside the loops of a map's nodes it is that of the map.
local function iteration_in(target, scope)
  if target.within == nil then
    return scope == '' and 0 or tonumber(redis.call('HGET', in_scope('scope', scope), 'iteration') or 0)
  end
  return tonumber(redis.call('HGET', loop_key(target.within, scope), 'current_iteration') or 0)
end

-- Put a token to work: on its stream, or before the coordinator.
local function put_to_work(run, token, record, target)
  record.queue_ms = target.queue_ms
  if target.stream then return enqueue(run, token, record, target.stream) end
  record.stream = nil
  ask_coordinator(run, token, record)
end

-- A token that may run now.
local function fire(run, token, record, target)
  record.iteration = iteration_in(target, record.scope or '')
  put_to_work(run, token, record, target)
end

local function scoped(record, scope)
  if scope ~= '' then record.scope = scope end
  return record
end

-- A value that the context will not keep until it is read travels with its token.
local function carry(token, record, arrival)
  if arrival.value then
    redis.call('HSET', in_scope('arrivals', scope_of(token)), token .. '/' .. arrival.from, ARGV[arrival.value])
    record.carries = true
  end
end

-- Where a token comes from: nowhere at an entry.
local function origin(arrival)
  if arrival.from == '' then return nil end
  return {arrival.from, arrival.rank[1], arrival.rank[2]}
end

local function fire_new(run, plan, arrival)
  local token = new_token(run, plan.scope)
  local record = scoped({node = arrival.node, attempt = 0, depth = arrival.depth, lane = arrival.lane}, plan.scope)
  record.from = origin(arrival) and {origin(arrival)}
  carry(token, record, arrival)
  fire(run, token, record, plan.targets[arrival.node])
end

local function newer(rank, depth, lane) return depth > rank[2] or (depth == rank[2] and lane >= rank[3]) end

-- Merge into the token that waits: one value per predecessor, the newest wins. Executions of a node come one after the
-- other, so the newest is the last; only where `join: any` lets them overlap, the rank (depth, lane) says which it is.
local function merge(plan, token, arrival)
  local record, known = get_token(token), nil
  record.from = record.from or {}
  for _, rank in ipairs(record.from) do
    if rank[1] == arrival.from then known = rank end
  end
  if known and plan.ranked and not newer(known, arrival.rank[1], arrival.rank[2]) then return end
  if known then
    if known[2] == arrival.rank[1] and known[3] == arrival.rank[2] then
      known[4] = (known[4] or 0) + 1 -- another execution of equal rank: it shows that the value is new (fold)
    end
    known[2], known[3] = arrival.rank[1], arrival.rank[2]
  else
    table.insert(record.from, origin(arrival))
  end
  if arrival.depth > record.depth then record.depth = arrival.depth end
  carry(token, record, arrival)
  put_token(token, record)
end

local function arrive(run, plan, arrival, pending)
  local waiting = in_scope('waiting', plan.scope)
  local token = redis.call('HGET', waiting, arrival.node)
  if token then return merge(plan, token, arrival) end
  token = new_token(run, plan.scope)
  redis.call('HSET', waiting, arrival.node, token)
  local record = scoped({node = arrival.node, state = 'waiting', attempt = 0, depth = arrival.depth, lane = '',
    since = now}, plan.scope)
  record.from = origin(arrival) and {origin(arrival)}
  carry(token, record, arrival)
  put_token(token, record)
  for _, held in ipairs(plan.targets[arrival.node].blocks or {}) do
    redis.call('HINCRBY', pending, held, 1)
  end
end

-- A release changes no counter: the token was alive at its node before and is after.
local function release(run, plan, node, pending)
  if tonumber(redis.call('HGET', pending, node) or 0) ~= 0 then return end
  local waiting = in_scope('waiting', plan.scope)
  local token = redis.call('HGET', waiting, node)
  if not token then return end
  redis.call('HDEL', waiting, node)
  fire(run, token, get_token(token), plan.targets[node])
end

local function emit(run, plan)
  local pending = in_scope('pending', plan.scope)
  for node, delta in pairs(plan.pending or {}) do redis.call('HINCRBY', pending, node, delta) end
  for _, arrival in ipairs(plan.fires or {}) do fire_new(run, plan, arrival) end
  for _, arrival in ipairs(plan.arrivals or {}) do arrive(run, plan, arrival, pending) end
  for _, node in ipairs(plan.releases or {}) do release(run, plan, node, pending) end
end
