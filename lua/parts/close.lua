-- The end of a run. Expects: parts/run, parts/event, parts/expire.
local UNRECORDED_MS = 7 * 24 * 3600 * 1000 -- until it is recorded (retire_run); Postgres may be away that long
local EVENT_OF = {COMPLETED = 'run_completed', FAILED = 'run_failed', CANCELLED = 'run_cancelled',
  TIMED_OUT = 'run_timed_out'}

local BATCH_TTL_MS = 7 * 24 * 3600 * 1000 -- after the last run of a batch that ended; Postgres keeps the rest

-- The end of a child of a `workflow` node is looked at by the coordinator, at the parent's token; that of a tool's
-- child by the runner that waits for it.
local function leave_parent()
  local parent, signal = unpack(redis.call('HMGET', of_run('run'), 'parent', 'parent_signal'))
  if parent then redis.call('SREM', of_shard('children:' .. parent), run_id) end
  if signal then redis.call('RPUSH', of_shard('completion_signals'), signal) end
end

-- Children that go on still: those of a run that failed are left alone, as it may be retried.
local function cancel_children()
  for _, child in ipairs(redis.call('SMEMBERS', of_run('children'))) do
    redis.call('ZADD', of_shard('timers'), now, 'cancel ' .. child .. ' - 0')
  end
end

local function close_run(run, status, body)
  run.status = status
  write_event(run, EVENT_OF[status], '', '', '', body, '')
  save_run(run)
  redis.call('HSET', of_run('run'), 'status', status, 'ended_at', now)
  local paused_at = redis.call('HGET', of_run('run'), 'paused_at')
  if paused_at then redis.call('HINCRBY', of_run('run'), 'paused_ms', now - tonumber(paused_at)) end
  redis.call('HDEL', of_run('run'), 'paused_at')
  redis.call('ZREM', of_shard('live_runs'), run_id)
  redis.call('ZREM', of_shard('timers'), 'run ' .. run_id .. ' - 0', 'follow ' .. run_id .. ' - 0')
  if status ~= 'FAILED' then cancel_children() end
  if run.batch ~= '' then
    local counts = of_shard('batch:' .. run.batch)
    local running = redis.call('HINCRBY', counts, 'running', -1)
    redis.call('HINCRBY', counts, status == 'COMPLETED' and 'done' or 'failed', 1)
    if running <= 0 then redis.call('PEXPIRE', counts, BATCH_TTL_MS) end -- one may wait for a person for weeks
  end
  leave_parent()
  expire_run(redis.call('HGET', of_run('run'), 'loops') or '', UNRECORDED_MS)
  redis.call('PUBLISH', of_shard('completion_events'), run_id)
end
