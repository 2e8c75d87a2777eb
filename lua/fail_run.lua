-- fail_run: end a run because one of its tasks failed for good and nothing takes over.
--
-- The token becomes dead, every other one held; their tasks are withdrawn. A run has at most some thousand tokens
-- of its own (the items of a map are counted by their map), so one pass over them is bounded.
--
-- KEYS    run
-- ARGV    prefix run_id now token attempt digest body
--         body: JSON of the events: {"error": {...}, ...}
-- ANSWER  {ended, status} | {stale, digest} | {duplicate} | {over, status} | {unknown}
-- EVENT   node_failed, run_failed; the task goes to the dead letters
--@include parts/keys parts/run parts/event parts/token parts/accept parts/expire parts/close

local run, entry, refused = accept(digest)
if refused then return refused end

count(run, entry.node, 'failed', 1)
withdraw(run, entry)
drop_attempt(token, entry)
entry.state, entry.since, entry.runner = 'dead', now, nil
put_token(token, entry)
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
record(run, 'node_failed', entry.node, token, entry.scope or '', body, applied_json(run))
redis.call('XADD', of_shard('wf.dead_letters'), 'MAXLEN', '~', 100000, '*', 'reason', 'task', 'run', run_id,
  'token', token, 'node', entry.node, 'at', now, 'detail', body)
redis.call('HSET', of_run('run'), 'error', body)
close_run(run, 'FAILED', body)
return {'ended', run.status}
