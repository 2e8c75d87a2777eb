-- record_call: an agent called a tool; say so while the execution goes on.
--
-- KEYS    run
-- ARGV    prefix run_id now token attempt body
--         body: JSON of the event
-- ANSWER  {recorded} | {fenced} (another attempt counts, or the run is over)
-- EVENT   tool_called
--@include parts/keys parts/run parts/event parts/token parts/scope

local run = load_run()
local record = run and is_live(run) and get_token(token)
if not record or record.state ~= 'running' or record.attempt ~= tonumber(attempt) or not is_scope_live(scope_of(token)) then
  return {'fenced'}
end
write_event(run, 'tool_called', record.node, token, scope_of(token), body, '')
save_run(run)
return {'recorded'}
