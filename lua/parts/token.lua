-- Tokens: their records, and how they reach a stream. Expects: parts/keys, parts/run, now.
local changed = {} -- token -> record (JSON) of every record written by this step, for its event

local function put_token(token, entry)
  local text = cjson.encode(entry)
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
local function enqueue(run, token, entry, stream)
  if run.priority == 'interactive' and string.sub(stream, -12) ~= ':interactive' then
    stream = stream .. ':interactive'
  end
  entry.state, entry.stream, entry.since, entry.runner = 'queued', stream, now, nil
  entry.entry = redis.call('XADD', of_shard(stream), '*', 'run', run_id, 'token', token, 'node', entry.node,
    'scope', entry.scope or '', 'digest', run.digest)
  count(run, entry.node, 'queued', 1)
  count_model(stream, 'queued', 1)
  put_token(token, entry)
end

-- deciding: the coordinator must evaluate expressions; there is no stream entry, so a timer repeats the signal.
local function ask_coordinator(run, token, entry)
  entry.state, entry.since = 'deciding', now
  put_token(token, entry)
  local signal = cjson.encode({version = '1.0', job_id = token, run_id = run_id, node_id = entry.node,
    attempt = entry.attempt, status = 'completed'})
  redis.call('HSET', of_run('outcomes'), token, signal)
  redis.call('RPUSH', of_shard('completion_signals'), signal)
  redis.call('ZADD', of_shard('timers'), now + 10000, 'signal ' .. run_id .. ' ' .. token .. ' ' .. entry.attempt)
end

-- Take a token's task from its stream, and its counts with it.
local function withdraw(run, entry)
  if entry.entry then
    redis.call('XACK', of_shard(entry.stream), 'runners', entry.entry)
    redis.call('XDEL', of_shard(entry.stream), entry.entry)
  end
  if entry.state == 'queued' or entry.state == 'running' then
    count(run, entry.node, entry.state, -1)
    count_model(entry.stream, entry.state, -1)
    if entry.state == 'running' then count_model(entry.stream, 'executed', 1) end
  end
  entry.entry = nil
end

-- Stop the clock of a token's current attempt.
local function drop_timers(token, entry)
  if entry.due or entry.state == 'deciding' then
    local tail = ' ' .. run_id .. ' ' .. token .. ' ' .. entry.attempt
    redis.call('ZREM', of_shard('timers'), 'timeout' .. tail, 'signal' .. tail, 'retry' .. tail)
  end
end

-- Forget what belongs to a token's current attempt: its timers, its stored outcome.
local function drop_attempt(token, entry)
  drop_timers(token, entry)
  entry.due = nil
  redis.call('HDEL', of_run('outcomes'), token)
end

-- Delete a token whose work is done, with the values that arrived for it.
local function consume(run, token, entry)
  withdraw(run, entry)
  drop_attempt(token, entry)
  redis.call('HDEL', of_run('tokens'), token)
  for _, arrival in ipairs(entry.carries and entry.from or {}) do
    redis.call('HDEL', of_run('arrivals'), token .. '/' .. arrival[1])
  end
  run.live = run.live - 1
end
