-- Tokens: their records, and how they reach a stream. Expects: parts/keys, parts/run, now.
local REPEATED = {deciding = true, calling = true, mapping = true, answered = true} -- a timer repeats their signal
local changed = {} -- token -> record (JSON) of every record written by this step, for its event

local function put_token(token, record)
  local text = cjson.encode(record)
  redis.call('HSET', in_scope('tokens', scope_of(token)), token, text)
  changed[token] = text
end

local function get_token(token)
  local text = redis.call('HGET', in_scope('tokens', scope_of(token)), token)
  return text and cjson.decode(text)
end

-- A change of how many tokens are alive in a scope; the new number.
local function add_live(run, scope, by)
  if scope ~= '' then return redis.call('HINCRBY', in_scope('scope', scope), 'live', by) end
  run.live = run.live + by
  return run.live
end

local function new_token(run, scope)
  run.made = run.made + 1
  add_live(run, scope, 1)
  return run_id .. '.' .. (scope == '' and '' or scope .. '.') .. run.made
end

-- What the event says about this step: tokens as they are now, tokens that are gone, the run's live count.
local function applied_json(run, gone)
  local records = {}
  for token, text in pairs(changed) do records[#records + 1] = '"' .. token .. '":' .. text end
  changed = {}
  local text = '{"tokens":{' .. table.concat(records, ',') .. '},"live":' .. run.live
  if gone then text = text .. ',"gone":["' .. table.concat(gone, '","') .. '"]' end
  return text .. '}'
end

local function timer_of(kind, token, record) return kind .. ' ' .. run_id .. ' ' .. token .. ' ' .. record.attempt end

local function set_timer(kind, token, record, due) redis.call('ZADD', of_shard('timers'), due, timer_of(kind, token, record)) end

-- parked: what a paused run emits, until it is resumed.
local function park(token, record)
  record.state, record.since, record.runner = 'parked', now, nil
  redis.call('RPUSH', of_run('parked'), token)
  put_token(token, record)
end

-- Until when a queued task waits for a runner.
local function time_queue(token, record)
  record.due = record.queue_ms and record.since + record.queue_ms
  if record.due then set_timer('queue', token, record, record.due) end
end

-- queued: an entry on the stream of its node. Ids only, never payload.
local function enqueue(run, token, record, stream)
  if run.priority == 'interactive' and string.sub(stream, -12) ~= ':interactive' then
    stream = stream .. ':interactive'
  end
  record.stream = stream
  if run.status == 'PAUSED' then return park(token, record) end
  record.state, record.since, record.runner = 'queued', now, nil
  record.entry = redis.call('XADD', of_shard(stream), '*', 'run', run_id, 'token', token, 'node', record.node,
    'scope', record.scope or '', 'digest', run.digest)
  if record.queue_ms then
    record.paused_ms = tonumber(redis.call('HGET', of_run('run'), 'paused_ms') or 0)
    time_queue(token, record)
  end
  count(run, record.node, 'queued', 1)
  count_model(stream, 'queued', 1)
  put_token(token, record)
end

-- Wake a coordinator for a token that has no stream entry; a timer repeats it until the token has moved.
local function repeat_signal(token, record, signal)
  redis.call('RPUSH', of_shard('completion_signals'), signal)
  set_timer('signal', token, record, now + 10000)
end

-- Ask the coordinator to look at a token.
local function ask(run, token, record)
  if run.status == 'PAUSED' then return redis.call('RPUSH', of_run('parked'), token) end
  local signal = cjson.encode({version = '1.0', job_id = token, run_id = run_id, node_id = record.node,
    attempt = record.attempt, status = 'completed'})
  redis.call('HSET', in_scope('outcomes', scope_of(token)), token, signal)
  repeat_signal(token, record, signal)
end

-- deciding: the coordinator must evaluate expressions.
local function ask_coordinator(run, token, record)
  if run.status == 'PAUSED' then return park(token, record) end
  record.state, record.since = 'deciding', now
  put_token(token, record)
  ask(run, token, record)
end

-- answered: the outcome is stored, and there is no task.
local function store_answer(token, record, signal)
  record.state, record.since, record.runner = 'answered', now, nil
  put_token(token, record)
  redis.call('HSET', in_scope('outcomes', scope_of(token)), token, signal)
  repeat_signal(token, record, signal)
end

-- Take a token's task from its stream, and its counts with it.
local function withdraw(run, record)
  if not record.entry then return end
  redis.call('XACK', of_shard(record.stream), 'runners', record.entry)
  redis.call('XDEL', of_shard(record.stream), record.entry)
  if record.state == 'queued' or record.state == 'running' then
    count(run, record.node, record.state, -1)
    count_model(record.stream, record.state, -1)
    if record.state == 'running' then count_model(record.stream, 'executed', 1) end
  end
  record.entry = nil
  if record.next then record.stream, record.next = record.next, nil end
end

-- Stop the clock of a token's current attempt, and what waits for its answer.
local function drop_timers(token, record)
  if record.due or record.remind_ms or REPEATED[record.state] then
    local tail = ' ' .. run_id .. ' ' .. token .. ' ' .. record.attempt
    redis.call('ZREM', of_shard('timers'), 'timeout' .. tail, 'signal' .. tail, 'retry' .. tail, 'queue' .. tail,
      'deadline' .. tail, 'wait' .. tail, 'remind' .. tail)
  end
  if record.state == 'asked' then redis.call('HDEL', of_shard('approvals'), token) end
  if record.state == 'listening' then redis.call('HDEL', of_shard('listeners:' .. record.event), token) end
end

-- Forget what belongs to a token's current attempt: its timers, its stored outcome.
local function drop_attempt(token, record)
  drop_timers(token, record)
  record.due = nil
  redis.call('HDEL', in_scope('outcomes', scope_of(token)), token)
end

-- Let timers bring the items of a map in line with their map, slice by slice.
local function sweep_soon(token)
  redis.call('ZADD', of_shard('timers'), now, 'sweep ' .. run_id .. ' ' .. token .. ' 0')
end

-- Let timers bring them over to the run's last patch, likewise.
local function follow_soon(token)
  redis.call('ZADD', of_shard('timers'), now, 'adopt ' .. run_id .. ' ' .. token .. ' 0')
end

-- End what a token has started: a map's items, a child run.
local function drop_started(token, record)
  if record.map then
    if redis.call('EXISTS', of_token('items', token), of_token('held', token)) > 0 then
      sweep_soon(token)
    else
      redis.call('UNLINK', of_token('map', token), of_token('results', token))
    end
  end
  if record.child then
    local status = redis.call('HGET', of_shard('run:' .. record.child), 'status')
    if status == 'RUNNING' or status == 'PAUSED' then
      redis.call('ZADD', of_shard('timers'), now, 'cancel ' .. record.child .. ' - 0')
    end
  end
end

-- Delete a token whose work is done, with the values that arrived for it; how many are still alive in its scope.
local function consume(run, token, record)
  local scope = scope_of(token)
  withdraw(run, record)
  drop_attempt(token, record)
  drop_started(token, record)
  redis.call('HDEL', in_scope('tokens', scope), token)
  for _, arrival in ipairs(record.carries and record.from or {}) do
    redis.call('HDEL', in_scope('arrivals', scope), token .. '/' .. arrival[1])
  end
  return add_live(run, scope, -1)
end
