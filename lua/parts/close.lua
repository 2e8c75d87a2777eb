-- The end of a run. Expects: parts/run, parts/event, parts/expire.
local UNRECORDED_MS = 7 * 24 * 3600 * 1000 -- until it is recorded (retire_run); Postgres may be away that long
local EVENT_OF = {COMPLETED = 'run_completed', FAILED = 'run_failed', CANCELLED = 'run_cancelled',
  TIMED_OUT = 'run_timed_out'}

local BATCH_TTL_MS = 7 * 24 * 3600 * 1000 -- after the last run of a batch that ended; Postgres keeps the rest

local function close_run(run, status, body)
  run.status = status
  write_event(run, EVENT_OF[status], '', '', '', body, '')
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
  expire_run(redis.call('HGET', of_run('run'), 'loops') or '', UNRECORDED_MS)
  redis.call('PUBLISH', of_shard('completion_events'), run_id)
end
