-- restate_run: tell a run's whole state in an event: Postgres has lost some of its events.
--
-- KEYS    run
-- ARGV    prefix run_id now seq body
--         seq: of the run as it was read
--         body: JSON of the event
-- ANSWER  {restated} | {stale, seq} (it went on meanwhile) | {unknown}
-- EVENT   run_restated
--@include parts/keys parts/run parts/event

local run = load_run()
if not run then return {'unknown'} end
if run.seq ~= tonumber(seq) then return {'stale', run.seq} end
write_event(run, 'run_restated', '', '', '', body, '')
save_run(run)
return {'restated'}
