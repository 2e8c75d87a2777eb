-- resignal: wake a coordinator again for an outcome that was stored and not routed.
--
-- KEYS    run
-- ARGV    prefix run_id now token attempt again
--         again: ms until the same is asked once more for a deciding token, whose only record is its timer
-- ANSWER  {signalled} | {running, runner} (no outcome yet) | {gone}
--@include parts/keys parts/run parts/token

local run = load_run()
local record = run and is_live(run) and get_token(token)
if not record then
  redis.call('ZREM', of_shard('timers'), 'signal ' .. run_id .. ' ' .. token .. ' ' .. attempt)
  return {'gone'}
end
if record.state == 'deciding' then
  redis.call('ZADD', of_shard('timers'), now + tonumber(again),
    'signal ' .. run_id .. ' ' .. token .. ' ' .. record.attempt)
end
local outcome = redis.call('HGET', of_run('outcomes'), token)
if not outcome then return {'running', record.runner or ''} end
redis.call('RPUSH', of_shard('completion_signals'), outcome)
if record.entry and record.runner then -- its entry is not idle any more, or the next look would signal it again
  redis.pcall('XCLAIM', of_shard(record.stream), 'runners', record.runner, 0, record.entry, 'JUSTID')
end
return {'signalled'}
