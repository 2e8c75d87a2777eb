-- retry_task: give a task that failed another attempt (running -> delayed, or -> queued without a backoff).
--
-- KEYS    run
-- ARGV    prefix run_id now token node attempt digest due body
--         due: when the next attempt may start, ms; at or before now: at once
--         body: JSON of the event
-- ANSWER  {retried} | {stale, digest} | {unadopted} | {duplicate} | {over, status} | {unknown}
-- EVENT   task_retried
--@include parts/keys parts/run parts/event parts/token parts/scope parts/accept

local run, record, refused = accept(digest, node)
if refused then return refused end

withdraw(run, record)
drop_attempt(token, record)
record.failures, record.again = (record.failures or 0) + 1, nil
if tonumber(due) > now then
  record.state, record.since, record.due, record.runner = 'delayed', now, tonumber(due), nil
  redis.call('ZADD', of_shard('timers'), due, 'retry ' .. run_id .. ' ' .. token .. ' ' .. record.attempt)
  put_token(token, record)
else
  enqueue(run, token, record, record.stream)
end
write_event(run, 'task_retried', record.node, token, record.scope or '', body, applied_json(run))
save_run(run)
return {'retried'}
