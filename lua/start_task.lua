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
local record_of = get_token(token)
if not record_of or record_of.entry ~= entry then return drop() end
if record_of.state == 'running' then
  local outcome = redis.call('HGET', of_run('outcomes'), token)
  if outcome then
    redis.call('RPUSH', of_shard('completion_signals'), outcome)
    return {'signalled'}
  end
  if reclaimed ~= '1' then return {'busy'} end
  if (record_of.interruptions or 0) >= tonumber(max_interruptions) then return {'exhausted', record_of.attempt} end
  record_of.interruptions = (record_of.interruptions or 0) + 1
  drop_attempt(token, record_of)
elseif record_of.state == 'queued' then
  count(run, record_of.node, 'queued', -1)
  count(run, record_of.node, 'running', 1)
  count_model(stream, 'queued', -1)
  count_model(stream, 'running', 1)
else
  return drop()
end

record_of.state, record_of.runner, record_of.since = 'running', runner, now
record_of.attempt = record_of.attempt + 1
if timeout_ms ~= '' then
  record_of.due = now + tonumber(timeout_ms)
  redis.call('ZADD', of_shard('timers'), record_of.due,
    'timeout ' .. run_id .. ' ' .. token .. ' ' .. record_of.attempt)
end
put_token(token, record_of)

local revision, input, key = unpack(run.more)
record(run, 'task_started', record_of.node, token, record_of.scope or '',
  '{"revision":' .. revision .. ',"attempt":' .. record_of.attempt .. ',"runner":"' .. runner .. '"}',
  applied_json(run))
redis.call('HSET', of_run('run'), 'seq', run.seq)

local names, outputs = {}, {}
for name in string.gmatch(reads, '%S+') do names[#names + 1] = name end
if #names > 0 then outputs = redis.call('HMGET', in_scope('context', record_of.scope or ''), unpack(names)) end
return {'started', run.digest, revision, changed[token], input,
  arrived_values(of_run('arrivals'), in_scope('context', record_of.scope or ''), token, record_of), outputs, run.batch, key or ''}
