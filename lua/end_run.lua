-- end_run: end a run from outside (cancelled, timed out): withdraw what is not started, fence what is.
--
-- A run over its time that is paused, or whose tasks all wait for a model, is asked again later: it waits rightly.
--
-- KEYS    run
-- ARGV    prefix run_id now status body
--         status: CANCELLED or TIMED_OUT
--         body: JSON of the event: who asked, and why
-- ANSWER  {ended, status} | {over, status} (it had ended) | {waiting} | {unknown}
-- EVENT   run_cancelled or run_timed_out
--@include parts/keys parts/run parts/event parts/token parts/expire parts/close

local AGAIN_MS = 10000
local run_timer = 'run ' .. run_id .. ' - 0'
local run = load_run()
if not run or not is_live(run) then
  redis.call('ZREM', of_shard('timers'), run_timer)
  return run and {'over', run.status} or {'unknown'}
end

local records, waits_rightly = {}, true
local all = redis.call('HGETALL', of_run('tokens'))
for i = 1, #all, 2 do
  local record = cjson.decode(all[i + 1])
  records[all[i]] = record
  if record.state ~= 'queued' and record.state ~= 'waiting' then waits_rightly = false end
end
if status == 'TIMED_OUT' and (waits_rightly or run.status == 'PAUSED') then
  redis.call('ZADD', of_shard('timers'), now + AGAIN_MS, run_timer)
  return {'waiting'}
end
for token, record in pairs(records) do consume(run, token, record) end
run.live = 0
redis.call('HSET', of_run('run'), 'error', body)
close_run(run, status, body)
return {'ended', run.status}
