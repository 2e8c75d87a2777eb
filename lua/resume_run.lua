-- resume_run: let a paused run go on (PAUSED -> RUNNING). What was parked is emitted by timers, and its children follow.
--
-- KEYS    run
-- ARGV    prefix run_id now body
--         body: JSON of the event: who asked, and why
-- ANSWER  {resumed} | {already} | {over, status} | {unknown}
-- EVENT   run_resumed
--@include parts/keys parts/run parts/event parts/pause

local run = load_run()
if not run then return {'unknown'} end
return resume(run, body)
