-- queue_task: put a task whose backoff is over back on its stream (delayed -> queued).
--
-- KEYS    run
-- ARGV    prefix run_id now token attempt
-- ANSWER  {queued} | {gone} (it is not delayed any more) | {waiting} (its item does not go on)
-- EVENT   task_queued
--@include parts/keys parts/run parts/event parts/token parts/scope

redis.call('ZREM', of_shard('timers'), 'retry ' .. run_id .. ' ' .. token .. ' ' .. attempt)
local run = load_run()
local record = run and get_token(token)
if not record or record.state ~= 'delayed' or record.attempt ~= tonumber(attempt) then return {'gone'} end
if is_in_limbo(run, token, record) then return put_off('retry', token, record) end
if not is_live(run) then return {'gone'} end
record.due = nil
enqueue(run, token, record, record.stream)
write_event(run, 'task_queued', record.node, token, record.scope or '', '', applied_json(run))
save_run(run)
return {'queued'}
