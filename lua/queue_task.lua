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
local record = get_token(token)
if not record or record.state ~= 'delayed' or record.attempt ~= tonumber(attempt) then return {'gone'} end
record.due = nil
enqueue(run, token, record, record.stream)
write_event(run, 'task_queued', record.node, token, record.scope or '', '', applied_json(run))
save_run(run)
return {'queued'}
