-- fail_run: end a run because one of its tasks failed for good and nothing takes over.
--
-- The token becomes dead, every other one held; their tasks are withdrawn. A run has at most some thousand tokens
-- of its own, so one pass over them is bounded; the items of its maps are held slice by slice (sweep_map).
--
-- KEYS    run
-- ARGV    prefix run_id now token node attempt digest body
--         body: JSON of the events: {"error": {...}, ...}
-- ANSWER  {ended, status} | {stale, digest} | {duplicate} | {over, status} | {unknown}
-- EVENT   node_failed, run_failed; the task goes to the dead letters
--@include parts/keys parts/run parts/event parts/token parts/scope parts/accept parts/dead parts/map parts/hold parts/expire parts/close

local run, record, refused = accept(digest, node)
if refused then return refused end

bury(run, token, record)
if record.map then sweep_soon(token) end
each_token('', function(other, its)
  if its.state ~= 'dead' and its.state ~= 'held' then hold(run, other, its) end
end)
run.live = 0
write_event(run, 'node_failed', record.node, token, record.scope or '', body, applied_json(run))
local letter = redis.call('XADD', of_shard('wf.dead_letters'), 'MAXLEN', '~', 100000, '*', 'reason', 'task', 'run', run_id,
  'token', token, 'node', record.node, 'at', now, 'detail', body)
redis.call('HSET', of_run('run'), 'error', body, 'letter', letter)
close_run(run, 'FAILED', body)
return {'ended', run.status}
