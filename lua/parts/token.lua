-- Tokens: their records, and how they reach a stream. Expects: parts/keys, parts/run, now.
local changed = {} -- token -> record (JSON) of every record written by this step, for its event

local function put_token(token, record)
  local text = cjson.encode(record)
  redis.call('HSET', of_run('tokens'), token, text)
  changed[token] = text
end

local function get_token(token)
  local text = redis.call('HGET', of_run('tokens'), token)
  return text and cjson.decode(text)
end

local function new_token(run)
  run.made = run.made + 1
  run.live = run.live + 1
  return run_id .. '.' .. run.made
end

-- What the event says about this step: tokens as they are now, tokens that are gone, the live count.
local function applied_json(run, gone)
  local records = {}
  for token, text in pairs(changed) do records[#records + 1] = '"' .. token .. '":' .. text end
  local text = '{"tokens":{' .. table.concat(records, ',') .. '},"live":' .. run.live
  if gone then text = text .. ',"gone":["' .. table.concat(gone, '","') .. '"]' end
  return text .. '}'
end

-- queued: an entry on the stream of its node. Ids only, never payload.
local function enqueue(run, token, record, stream)
  if run.priority == 'interactive' and string.sub(stream, -12) ~= ':interactive' then
    stream = stream .. ':interactive'
  end
  record.state, record.stream, record.since, record.runner = 'queued', stream, now, nil
  record.entry = redis.call('XADD', of_shard(stream), '*', 'run', run_id, 'token', token, 'node', record.node,
    'scope', record.scope or '', 'digest', run.digest)
  count(run, record.node, 'queued', 1)
  count_model(stream, 'queued', 1)
  put_token(token, record)
end

-- deciding: the coordinator must evaluate expressions; there is no stream entry, so a timer repeats the signal.
local function ask_coordinator(run, token, record)
  record.state, record.since = 'deciding', now
  put_token(token, record)
  local signal = cjson.encode({version = '1.0', job_id = token, run_id = run_id, node_id = record.node,
    attempt = record.attempt, status = 'completed'})
  redis.call('HSET', of_run('outcomes'), token, signal)
  redis.call('RPUSH', of_shard('completion_signals'), signal)
  redis.call('ZADD', of_shard('timers'), now + 10000, 'signal ' .. run_id .. ' ' .. token .. ' ' .. record.attempt)
end

-- Take a token's task from its stream, and its counts with it.
local function withdraw(run, record)
  if record.entry then
    redis.call('XACK', of_shard(record.stream), 'runners', record.entry)
    redis.call('XDEL', of_shard(record.stream), record.entry)
  end
  if record.state == 'queued' or record.state == 'running' then
    count(run, record.node, record.state, -1)
    count_model(record.stream, record.state, -1)
    if record.state == 'running' then count_model(record.stream, 'executed', 1) end
  end
  record.entry = nil
end

-- Stop the clock of a token's current attempt.
local function drop_timers(token, record)
  if record.due or record.state == 'deciding' then
    local tail = ' ' .. run_id .. ' ' .. token .. ' ' .. record.attempt
    redis.call('ZREM', of_shard('timers'), 'timeout' .. tail, 'signal' .. tail, 'retry' .. tail)
  end
end

-- Forget what belongs to a token's current attempt: its timers, its stored outcome.
local function drop_attempt(token, record)
  drop_timers(token, record)
  record.due = nil
  redis.call('HDEL', of_run('outcomes'), token)
end

-- Delete a token whose work is done, with the values that arrived for it.
local function consume(run, token, record)
  withdraw(run, record)
  drop_attempt(token, record)
  redis.call('HDEL', of_run('tokens'), token)
  for _, arrival in ipairs(record.carries and record.from or {}) do
    redis.call('HDEL', of_run('arrivals'), token .. '/' .. arrival[1])
  end
  run.live = run.live - 1
end
