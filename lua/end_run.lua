-- end_run: end a run from outside (cancelled, timed out): withdraw what is not started, fence what is.
--
-- KEYS    run
-- ARGV    prefix run_id now status body
--         status: CANCELLED or TIMED_OUT
--         body: JSON of the event: who asked, and why
-- ANSWER  {ended, status} | {over, status} (it had ended) | {unknown}
-- EVENT   run_cancelled or run_timed_out
--@include parts/keys parts/run parts/event parts/token parts/expire parts/close

local run = load_run()
if not run then return {'unknown'} end
if not is_live(run) then return {'over', run.status} end
local all = redis.call('HGETALL', of_run('tokens'))
for i = 1, #all, 2 do consume(run, all[i], cjson.decode(all[i + 1])) end
run.live = 0
redis.call('HSET', of_run('run'), 'error', body)
close_run(run, status, body)
return {'ended', run.status}
