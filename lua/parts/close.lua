-- The end of a run. Expects: parts/run, parts/event.
local RUN_KEYS = {'run', 'ir', 'tokens', 'context', 'ranks', 'ends', 'waiting', 'pending', 'arrivals', 'outcomes',
  'artifacts'}
local EVENT_OF = {COMPLETED = 'run_completed', FAILED = 'run_failed', CANCELLED = 'run_cancelled',
  TIMED_OUT = 'run_timed_out'}

local BATCH_TTL_MS = 7 * 24 * 3600 * 1000 -- after the last run of a batch that ended; Postgres keeps the rest

local function close_run(run, status, body)
  run.status = status
  record(run, EVENT_OF[status], '', '', '', body, '')
  save_run(run)
  redis.call('HSET', of_run('run'), 'status', status, 'ended_at', now)
  redis.call('ZREM', of_shard('live_runs'), run_id)
  redis.call('ZREM', of_shard('timers'), 'run ' .. run_id .. ' - 0')
  if run.batch ~= '' then
    local counts = of_shard('batch:' .. run.batch)
    redis.call('HINCRBY', counts, 'running', -1)
    redis.call('HINCRBY', counts, status == 'COMPLETED' and 'done' or 'failed', 1)
    redis.call('PEXPIRE', counts, BATCH_TTL_MS)
  end
  local kept = redis.call('HMGET', of_run('run'), 'retention_ms', 'loops')
  for _, kind in ipairs(RUN_KEYS) do redis.call('PEXPIRE', of_run(kind), kept[1]) end
  for node in string.gmatch(kept[2], '%S+') do redis.call('PEXPIRE', loop_key(node, ''), kept[1]) end
  redis.call('PUBLISH', of_shard('completion_events'), run_id)
end
