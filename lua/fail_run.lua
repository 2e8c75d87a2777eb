-- fail_run: end a run because one of its tasks failed for good and nothing takes over.
--
-- The token becomes dead, every other one held; their tasks are withdrawn. A run has at most some thousand tokens
-- of its own (the items of a map are counted by their map), so one pass over them is bounded.
--
-- KEYS    run
-- ARGV    prefix run_id now token node attempt digest body
--         body: JSON of the events: {"error": {...}, ...}
-- ANSWER  {ended, status} | {stale, digest} | {duplicate} | {over, status} | {unknown}
-- EVENT   node_failed, run_failed; the task goes to the dead letters
--@include parts/keys parts/run parts/event parts/token parts/accept parts/expire parts/close

local run, record, refused = accept(digest, node)
if refused then return refused end

count(run, record.node, 'failed', 1)
withdraw(run, record)
drop_attempt(token, record)
record.state, record.since, record.runner = 'dead', now, nil
put_token(token, record)
local all = redis.call('HGETALL', of_run('tokens'))
for i = 1, #all, 2 do
  local other = cjson.decode(all[i + 1])
  if other.state ~= 'dead' and other.state ~= 'held' then
    other.held = other.state
    withdraw(run, other)
    drop_timers(all[i], other)
    other.state, other.since = 'held', now
    put_token(all[i], other)
  end
end
run.live = 0
write_event(run, 'node_failed', record.node, token, record.scope or '', body, applied_json(run))
redis.call('XADD', of_shard('wf.dead_letters'), 'MAXLEN', '~', 100000, '*', 'reason', 'task', 'run', run_id,
  'token', token, 'node', record.node, 'at', now, 'detail', body)
redis.call('HSET', of_run('run'), 'error', body)
close_run(run, 'FAILED', body)
return {'ended', run.status}
