-- Pausing a run and resuming it. Expects: parts/run, parts/event.
local function follow_children()
  for _, child in ipairs(redis.call('SMEMBERS', of_run('children'))) do
    redis.call('ZADD', of_shard('timers'), now, 'follow ' .. child .. ' - 0')
  end
end

local function pause(run, body)
  if run.status == 'PAUSED' then return {'already'} end
  if run.status ~= 'RUNNING' then return {'over', run.status} end
  redis.call('HSET', of_run('run'), 'status', 'PAUSED', 'paused_at', now)
  follow_children()
  write_event(run, 'run_paused', '', '', '', body, '')
  save_run(run)
  return {'paused'}
end

-- What was parked is emitted by timers (unpark_run).
local function resume(run, body)
  if run.status == 'RUNNING' then return {'already'} end
  if run.status ~= 'PAUSED' then return {'over', run.status} end
  local paused_at = redis.call('HGET', of_run('run'), 'paused_at')
  redis.call('HSET', of_run('run'), 'status', 'RUNNING')
  redis.call('HDEL', of_run('run'), 'paused_at')
  redis.call('HINCRBY', of_run('run'), 'paused_ms', now - tonumber(paused_at or now)) -- its clocks stood still
  redis.call('ZADD', of_shard('timers'), now, 'unpark ' .. run_id .. ' - 0')
  follow_children()
  write_event(run, 'run_resumed', '', '', '', body, '')
  save_run(run)
  return {'resumed'}
end
