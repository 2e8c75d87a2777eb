-- remind_task: somebody has not answered for `remind_ms`; say so, and again after as long.
--
-- KEYS    run
-- ARGV    prefix run_id now token attempt
-- ANSWER  {reminded, times} | {waiting} (the run is paused, or the token to be held with it) | {gone}
-- EVENT   node_reminded
--@include parts/keys parts/run parts/event parts/token parts/scope

local run = load_run()
local record = run and get_token(token)
if is_in_limbo(run, token, record) and record.remind_ms then return put_off('remind', token, record) end
if not record or not is_live(run) or record.state ~= 'asked' or record.attempt ~= tonumber(attempt)
  or not is_scope_live(scope_of(token)) then
  redis.call('ZREM', of_shard('timers'), 'remind ' .. run_id .. ' ' .. token .. ' ' .. attempt)
  return {'gone'}
end
set_timer('remind', token, record, now + record.remind_ms)
if run.status == 'PAUSED' then return {'waiting'} end
record.reminders = (record.reminders or 0) + 1
put_token(token, record)
write_event(run, 'node_reminded', record.node, token, scope_of(token), '{"times":' .. record.reminders .. '}',
  applied_json(run))
save_run(run)
return {'reminded', record.reminders}
