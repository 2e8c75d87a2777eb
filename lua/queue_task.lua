-- queue_task: put a task whose backoff is over back on its stream (delayed -> queued).
--
-- KEYS    run
-- ARGV    prefix run_id now token attempt
-- ANSWER  {queued} | {gone} (it is not delayed any more)
-- EVENT   task_queued
--@include parts/keys parts/run parts/event parts/token

redis.call('ZREM', of_shard('timers'), 'retry ' .. run_id .. ' ' .. token .. ' ' .. attempt)
local run = load_run()
if not run or not is_live(run) then return {'gone'} end
local entry = get_token(token)
if not entry or entry.state ~= 'delayed' or entry.attempt ~= tonumber(attempt) then return {'gone'} end
entry.due = nil
enqueue(run, token, entry, entry.stream)
record(run, 'task_queued', entry.node, token, entry.scope or '', '', applied_json(run))
save_run(run)
return {'queued'}
