-- Adoption: the tokens of a scope go over to another graph. Expects: parts/scope, parts/emit, parts/map.
-- change: what differs, by node: redefined (they begin anew), retyped; and loops, those that are gone.
-- places: node -> {stream, queue_ms, within, blocks, waits, parallel}, the nodes of the scope's graph.
local STARTED = {running = true, answered = true, asked = true, timed = true, listening = true, calling = true,
  mapping = true}

-- What a record has of its work.
local BEGUN = {'remind_ms', 'reminders', 'event', 'key', 'child', 'map', 'failures', 'interruptions', 'again'}

-- Of an item that a retry has not restored yet: what its token was, and will be.
local function state_of(record)
  if record.state == 'dead' then return record.map and 'mapping' or record.stream and 'queued' or 'deciding' end
  return record.held or record.state
end

local function is_mapping(record)
  local state = state_of(record)
  return record.map and (state == 'mapping' or state == 'deciding' or state == 'parked')
end

local function is_started(record) return STARTED[state_of(record)] or is_mapping(record) end

-- Let the items of a map follow, slice by slice.
local function adopt_soon(token)
  if redis.call('EXISTS', of_token('items', token), of_token('held', token)) == 0 then return end
  redis.call('SADD', of_run('adopting'), token)
  redis.call('HSET', of_token('map', token), 'adopt', 0)
  follow_soon(token)
end

-- What arrived stays what it was, whatever its predecessor does under the new graph.
local function keep_arrivals(token, record)
  local scope = scope_of(token)
  for _, arrival in ipairs(record.from or {}) do
    local value = redis.call('HGET', in_scope('context', scope), arrival[1])
    if value and redis.call('HSETNX', in_scope('arrivals', scope), token .. '/' .. arrival[1], value) == 1 then
      record.carries = true
      put_token(token, record)
    end
  end
end

-- What it has begun is given up: the attempt counts no more.
local function begin_anew(run, token, record, place)
  local raised = record.state ~= 'running' or not place.stream -- a runner raises it itself
  withdraw(run, record)
  drop_attempt(token, record)
  drop_started(token, record)
  for _, name in ipairs(BEGUN) do record[name] = nil end
  if raised then record.attempt = record.attempt + 1 end
  put_to_work(run, token, record, place)
end

local function adopt_map(run, token, record, place)
  adopt_soon(token)
  redis.call('HSET', of_token('map', token), 'parallel', place.parallel)
  if record.state == 'mapping' then ask_for_items(run, token, record, map_counts(token)) end
end

local function base_of(stream) return stream and string.gsub(stream, ':interactive$', '') end

-- What it executes goes on; its next attempt, if there is one, begins under the new definition.
local function redirect(token, record, place)
  if not record.stream or not place.stream then return end
  local other = base_of(record.stream) ~= place.stream and place.stream or nil
  if other == record.next and record.queue_ms == place.queue_ms then return end
  record.queue_ms = place.queue_ms
  if record.entry then record.next = other else record.stream = other or record.stream end
  put_token(token, record)
end

local function adopt_started(run, token, record, place, change)
  if is_mapping(record) then return adopt_map(run, token, record, place) end
  local outcome = redis.call('HEXISTS', in_scope('outcomes', scope_of(token)), token) == 1
  local is_over = record.state == 'answered' or (record.state == 'running' and outcome)
  if change.retyped[record.node] or (change.redefined[record.node] and not is_over) then
    begin_anew(run, token, record, place)
  elseif record.map then -- it has failed, and a retry of its run restores its items
    adopt_soon(token)
  else
    redirect(token, record, place)
  end
end

-- It stays on its stream, and waits there for as long as the new definition says.
local function adopt_queue_time(token, record, queue_ms)
  if record.queue_ms == queue_ms then return end
  if record.state == 'queued' then
    if not record.queue_ms then -- how long its run had been paused by then nobody wrote down: no less than this
      local paused_ms = tonumber(redis.call('HGET', of_run('run'), 'paused_ms') or 0)
      record.paused_ms = math.max(0, paused_ms - (now - record.since))
    end
    drop_timers(token, record)
    record.queue_ms = queue_ms
    time_queue(token, record)
  end
  record.queue_ms = queue_ms
  put_token(token, record)
end

-- What has not begun begins under the new definition.
local function adopt_unstarted(run, token, record, place)
  if base_of(record.stream) == place.stream then return adopt_queue_time(token, record, place.queue_ms) end
  if record.state == 'parked' or (record.state == 'delayed' and place.stream) then
    local lane = place.stream and run.priority == 'interactive' and ':interactive' or ''
    record.stream, record.queue_ms = place.stream and place.stream .. lane, place.queue_ms
    return put_token(token, record)
  end
  withdraw(run, record)
  drop_attempt(token, record)
  -- A signal to decide it answers no task, and what an attempt has started (children) is not the next one's.
  if record.state == 'deciding' or not place.stream then record.attempt = record.attempt + 1 end
  put_to_work(run, token, record, place)
end

local function adopt_token(run, token, record, place, change)
  keep_arrivals(token, record)
  if record.state == 'waiting' then return end
  if is_started(record) then return adopt_started(run, token, record, place, change) end
  adopt_unstarted(run, token, record, place)
end

-- The live tokens that can still reach each waiting node, counted anew; what waits for none goes on.
local function recount(run, scope, places, nodes)
  local pending, counts = in_scope('pending', scope), {}
  redis.call('DEL', pending)
  for _, node in ipairs(nodes) do
    for _, held in ipairs(places[node].blocks or {}) do counts[held] = (counts[held] or 0) + 1 end
  end
  for node, n in pairs(counts) do redis.call('HSET', pending, node, n) end
  local waiting = redis.call('HGETALL', in_scope('waiting', scope))
  for i = 1, #waiting, 2 do
    local node, token = waiting[i], waiting[i + 1]
    if not places[node].waits or not counts[node] then
      redis.call('HDEL', in_scope('waiting', scope), node)
      fire(run, token, get_token(token), places[node])
    end
  end
end

-- Whether anything is left alive in the scope, and the tokens that are gone.
local function adopt_scope(run, scope, places, change)
  local nodes, gone = {}, {}
  each_token(scope, function(token, record)
    local place = places[record.node]
    if place then
      nodes[#nodes + 1] = record.node
      return adopt_token(run, token, record, place, change)
    end
    if record.state == 'waiting' then redis.call('HDEL', in_scope('waiting', scope), record.node) end
    consume(run, token, record)
    changed[token] = nil
    gone[#gone + 1] = token
  end)
  recount(run, scope, places, nodes)
  for _, loop in ipairs(change.loops) do redis.call('DEL', loop_key(loop, scope)) end
  if change.unranked then redis.call('DEL', in_scope('ranks', scope)) end
  return #nodes > 0, gone
end
