-- start_task: make a claim real (queued -> running, or running -> running when its runner died).
--
-- Raises the attempt: the fence, an outcome of an older attempt changes nothing. An entry that a reclaim hands over
-- although its outcome is stored is signalled again and not executed.
--
-- KEYS    run
-- ARGV    prefix run_id now token stream entry runner reclaimed digest timeout_ms max_interruptions reads
--         digest: of the IR that timeout_ms and reads are of
--         reclaimed: '1' when the entry was taken over from another runner
--         timeout_ms: of one execution, '' for none
--         reads: names in ctx to answer with, separated by spaces
-- ANSWER  {started, digest, revision, record, input, arrived, outputs, batch, key, item}; arrived: predecessor, value,
--         ...; item: '' outside of maps;
--         {signalled} | {gone} (nothing to do for this entry; it is deleted) | {busy} (somebody runs it)
--         | {moved} (a patch gave its node another stream: it is queued there)
--         | {stale, digest} (the run was patched since) | {unadopted, digest} (its item has to follow first: adopt_items)
--         | {parked} (the run is paused) | {exhausted, attempt} (its runners died too often)
-- EVENT   task_started, or tokens_parked, or task_queued
--@include parts/keys parts/run parts/event parts/token parts/scope parts/answer

local function drop()
  redis.call('XACK', of_shard(stream), 'runners', entry)
  redis.call('XDEL', of_shard(stream), entry)
  return {'gone'}
end

local run = load_run('revision', 'input', 'key')
local scope = scope_of(token)
if run and run.status == 'FAILED' and scope ~= '' then return {'gone'} end -- held soon, with its entry (sweep_map)
if not run or not is_live(run) then return drop() end
local revision, input, key = unpack(run.more)
local record = get_token(token)
if not record or record.entry ~= entry then return drop() end
if not is_scope_live(scope) then return {'gone'} end -- likewise

-- What the script answers instead of starting; nil if the claim may go on.
local function refusal()
  local paused = run.status == 'PAUSED'
  if record.state == 'queued' then return paused and {'parked'} or nil end
  if record.state ~= 'running' then return drop() end
  local outcome = redis.call('HGET', in_scope('outcomes', scope), token)
  if outcome then
    redis.call('RPUSH', of_shard('completion_signals'), outcome)
    return {'signalled'}
  end
  if reclaimed ~= '1' then return {'busy'} end
  if (record.interruptions or 0) >= tonumber(max_interruptions) then return {'exhausted', record.attempt} end
  if paused then return {'parked'} end
  return record.next and {'moved'} or nil
end

-- A paused run starts nothing: what a runner would start waits until it is resumed.
local function park_task()
  withdraw(run, record)
  drop_attempt(token, record)
  park(token, record)
  write_event(run, 'tokens_parked', record.node, token, scope, '', applied_json(run))
  redis.call('HSET', of_run('run'), 'seq', run.seq)
end

-- Its runner died, and it is another model's task now.
local function move_task()
  record.interruptions = (record.interruptions or 0) + 1
  withdraw(run, record)
  drop_attempt(token, record)
  enqueue(run, token, record, record.stream)
  write_event(run, 'task_queued', record.node, token, scope, '', applied_json(run))
  redis.call('HSET', of_run('run'), 'seq', run.seq)
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
  drop_timers(token, record)
  record.state, record.runner, record.since, record.attempt = 'running', runner, now, record.attempt + 1
  record.due = nil
  if timeout_ms ~= '' then
    record.due = now + tonumber(timeout_ms)
    redis.call('ZADD', of_shard('timers'), record.due,
      'timeout ' .. run_id .. ' ' .. token .. ' ' .. record.attempt)
  end
  put_token(token, record)
  write_event(run, 'task_started', record.node, token, scope,
    '{"revision":' .. revision .. ',"attempt":' .. record.attempt .. ',"runner":' .. cjson.encode(runner) .. '}',
    applied_json(run))
  redis.call('HSET', of_run('run'), 'seq', run.seq)
end

if not is_adopted(run, scope) then return {'unadopted', run.digest} end
if digest ~= run.digest then return {'stale', run.digest} end
local refused = refusal()
if refused and refused[1] == 'parked' then park_task() end
if refused and refused[1] == 'moved' then move_task() end
-- A runner asks twice for one entry only when it lost the answer: it gets it again, the attempt being the same.
local lost_answer = refused and refused[1] == 'busy' and record.runner == runner
if refused and not lost_answer then return refused end
if not lost_answer then begin() end

local names, item = {}, ''
for name in string.gmatch(reads, '%S+') do names[#names + 1] = name end
if scope ~= '' then item = redis.call('HGET', in_scope('scope', scope), 'item') end
return {'started', run.digest, revision, cjson.encode(record), input,
  arrived_values(in_scope('arrivals', scope), in_scope('context', scope), token, record),
  outputs_in(of_run('context'), scope, names), run.batch, key or '', item}
