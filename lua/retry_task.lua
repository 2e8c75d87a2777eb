-- retry_task: give a task that failed another attempt (running -> delayed, or -> queued without a backoff).
--
-- KEYS    run
-- ARGV    prefix run_id now token attempt digest due body
--         due: when the next attempt may start, ms; at or before now: at once
--         body: JSON of the event
-- ANSWER  {retried} | {stale, digest} | {duplicate} | {over, status} | {unknown}
-- EVENT   task_retried
--@include parts/keys parts/run parts/event parts/token parts/accept

local run, entry, refused = accept(digest)
if refused then return refused end

withdraw(run, entry)
drop_attempt(token, entry)
entry.failures = (entry.failures or 0) + 1
if tonumber(due) > now then
  entry.state, entry.since, entry.due, entry.runner = 'delayed', now, tonumber(due), nil
  redis.call('ZADD', of_shard('timers'), due, 'retry ' .. run_id .. ' ' .. token .. ' ' .. entry.attempt)
  put_token(token, entry)
else
  enqueue(run, token, entry, entry.stream)
end
record(run, 'task_retried', entry.node, token, entry.scope or '', body, applied_json(run))
save_run(run)
return {'retried'}
