-- resignal: wake a coordinator again for an outcome that was stored and not routed.
--
-- KEYS    run
-- ARGV    prefix run_id now token attempt again
--         again: ms until the same is asked once more for a token whose only record is its timer
-- ANSWER  {signalled} | {running, runner} (no outcome yet) | {gone} | {waiting} (its item does not go on)
--@include parts/keys parts/run parts/token parts/scope

local run = load_run()
local record = run and get_token(token)
if is_in_limbo(run, token, record) and REPEATED[record.state] then return put_off('signal', token, record) end
if not record or not is_live(run) or not is_scope_live(scope_of(token)) then
  redis.call('ZREM', of_shard('timers'), 'signal ' .. run_id .. ' ' .. token .. ' ' .. attempt)
  return {'gone'}
end
local outcome = redis.call('HGET', in_scope('outcomes', scope_of(token)), token)
if REPEATED[record.state] and outcome then
  set_timer('signal', token, record, now + tonumber(again) * (record.state == 'calling' and 6 or 1))
else
  redis.call('ZREM', of_shard('timers'), 'signal ' .. run_id .. ' ' .. token .. ' ' .. attempt)
end
if not outcome then return {'running', record.runner or ''} end
redis.call('RPUSH', of_shard('completion_signals'), outcome)
if record.entry and record.runner then -- its entry is not idle any more, or the next look would signal it again
  redis.pcall('XCLAIM', of_shard(record.stream), 'runners', record.runner, 0, record.entry, 'JUSTID')
end
return {'signalled'}
