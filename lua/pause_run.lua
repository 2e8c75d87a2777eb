-- pause_run: park what the run would emit; what runs goes on (RUNNING -> PAUSED). Its children follow by timers.
--
-- KEYS    run
-- ARGV    prefix run_id now body
--         body: JSON of the event: who asked, and why
-- ANSWER  {paused} | {already} | {over, status} | {unknown}
-- EVENT   run_paused
--@include parts/keys parts/run parts/event parts/pause

local run = load_run()
if not run then return {'unknown'} end
return pause(run, body)
