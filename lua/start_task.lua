-- start_task: make a claim real (queued -> running, or running -> running when its runner died).
--
-- Raises the attempt: the fence, an outcome of an older attempt changes nothing. An entry that a reclaim hands over
-- although its outcome is stored is signalled again and not executed.
--
-- KEYS    run
-- ARGV    prefix run_id now token stream entry runner reclaimed timeout_ms max_interruptions reads
--         reclaimed: '1' when the entry was taken over from another runner
--         timeout_ms: of one execution, '' for none
--         reads: names in ctx to answer with, separated by spaces
-- ANSWER  {started, digest, revision, record, input, arrived, outputs, batch, key}; arrived: predecessor, value, ...;
--         {signalled} | {gone} (nothing to do for this entry; it is deleted) | {busy} (somebody runs it)
--         | {exhausted, attempt} (its runners died too often)
-- EVENT   task_started
--@include parts/keys parts/run parts/event parts/token parts/answer

local function drop()
  redis.call('XACK', of_shard(stream), 'runners', entry)
  redis.call('XDEL', of_shard(stream), entry)
  return {'gone'}
end

local run = load_run('revision', 'input', 'key')
if not run or not is_live(run) then return drop() end
local revision, input, key = unpack(run.more)
local record = get_token(token)
if not record or record.entry ~= entry then return drop() end

-- What the script answers instead of starting; nil if the claim may go on.
local function refusal()
  if record.state == 'queued' then return nil end
  if record.state ~= 'running' then return drop() end
  local outcome = redis.call('HGET', of_run('outcomes'), token)
  if outcome then
    redis.call('RPUSH', of_shard('completion_signals'), outcome)
    return {'signalled'}
  end
  if reclaimed ~= '1' then return {'busy'} end
  if (record.interruptions or 0) >= tonumber(max_interruptions) then return {'exhausted', record.attempt} end
end

local function begin()
  if record.state == 'running' then
    record.interruptions = (record.interruptions or 0) + 1
    drop_attempt(token, record)
  else
    count(run, record.node, 'queued', -1)
    count(run, record.node, 'running', 1)
    count_model(stream, 'queued', -1)
    count_model(stream, 'running', 1)
  end
  record.state, record.runner, record.since, record.attempt = 'running', runner, now, record.attempt + 1
  if timeout_ms ~= '' then
    record.due = now + tonumber(timeout_ms)
    redis.call('ZADD', of_shard('timers'), record.due,
      'timeout ' .. run_id .. ' ' .. token .. ' ' .. record.attempt)
  end
  put_token(token, record)
  write_event(run, 'task_started', record.node, token, record.scope or '',
    '{"revision":' .. revision .. ',"attempt":' .. record.attempt .. ',"runner":' .. cjson.encode(runner) .. '}',
    applied_json(run))
  redis.call('HSET', of_run('run'), 'seq', run.seq)
end

local refused = refusal()
-- A runner asks twice for one entry only when it lost the answer: it gets it again, the attempt being the same.
local lost_answer = refused and refused[1] == 'busy' and record.runner == runner
if refused and not lost_answer then return refused end
if not lost_answer then begin() end

local context, names, outputs = in_scope('context', record.scope or ''), {}, {}
for name in string.gmatch(reads, '%S+') do names[#names + 1] = name end
if #names > 0 then outputs = redis.call('HMGET', context, unpack(names)) end
return {'started', run.digest, revision, changed[token] or cjson.encode(record), input,
  arrived_values(of_run('arrivals'), context, token, record), outputs, run.batch, key or ''}
