-- retry_run: a run that failed goes on (FAILED -> RUNNING): the dead token and all held ones are restored as they were.
-- Paused (FAILED -> PAUSED) it can be patched before it goes on: what is restored is parked.
--
-- Opens a new epoch. The items of its maps are restored slice by slice (sweep_map).
--
-- KEYS    run
-- ARGV    prefix run_id now paused body
--         paused: '1' to let it go on only when it is resumed
--         body: JSON of the event: who asked, and why
-- ANSWER  {retried} | {live, status} | {over, status} | {unknown}
-- EVENT   run_retried; run_paused
--@include parts/keys parts/run parts/event parts/token parts/scope parts/map parts/hold parts/expire

local run = load_run('loops', 'ended_at', 'timeout_ms', 'created_at', 'paused_ms', 'letter', 'parent',
  'streams')
if not run then return {'unknown'} end
if is_live(run) then return {'live', run.status} end
if run.status ~= 'FAILED' then return {'over', run.status} end

local loops, ended_at, timeout_ms, created_at, paused_ms, letter, parent, streams = unpack(run.more, 1, 8)
keep_run(loops or '')
run.status = paused == '1' and 'PAUSED' or 'RUNNING'
redis.call('HSET', of_run('run'), 'status', run.status)
if paused == '1' then redis.call('HSET', of_run('run'), 'paused_at', now) end
redis.call('HDEL', of_run('run'), 'ended_at', 'error', 'letter')
if letter then redis.call('XDEL', of_shard('wf.dead_letters'), letter) end
redis.call('HINCRBY', of_run('run'), 'epoch', 1)
redis.call('HINCRBY', of_run('run'), 'paused_ms', now - tonumber(ended_at)) -- as if it had been paused
redis.call('ZADD', of_shard('live_runs'), created_at, run_id)
for stream in string.gmatch(streams or '', '%S+') do redis.call('SADD', of_shard('streams'), stream) end
if timeout_ms then
  local due = tonumber(created_at) + tonumber(timeout_ms) + tonumber(paused_ms or 0) + now - tonumber(ended_at)
  redis.call('ZADD', of_shard('timers'), due, 'run ' .. run_id .. ' - 0')
end
if parent then
  local above, parent_epoch = unpack(redis.call('HMGET', of_shard('run:' .. parent), 'status', 'epoch'))
  redis.call('HSET', of_run('run'), 'parent_epoch', parent_epoch or 0)
  redis.call('SADD', of_shard('children:' .. parent), run_id)
  if above ~= 'RUNNING' then redis.call('ZADD', of_shard('timers'), now, 'follow ' .. run_id .. ' - 0') end
end
if run.batch ~= '' then
  redis.call('HINCRBY', of_shard('batch:' .. run.batch), 'failed', -1)
  redis.call('HINCRBY', of_shard('batch:' .. run.batch), 'running', 1)
  redis.call('PERSIST', of_shard('batch:' .. run.batch))
end
redis.call('ZADD', of_shard('timers'), now, 'unpark ' .. run_id .. ' - 0') -- it may have failed while it was paused
for _, child in ipairs(redis.call('SMEMBERS', of_run('children'))) do
  redis.call('ZADD', of_shard('timers'), now, 'follow ' .. child .. ' - 0')
end
run.live = 0
each_token('', function(token, record)
  if record.state == 'dead' then count(run, record.node, 'failed', -1) end
  restore(run, token, record)
  run.live = run.live + 1
end)
write_event(run, 'run_retried', '', '', '', body, applied_json(run))
if paused == '1' then write_event(run, 'run_paused', '', '', '', body, '') end
save_run(run)
return {'retried'}
