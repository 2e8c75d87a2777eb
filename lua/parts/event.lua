-- Events: one fact about a run each, numbered by seq. Expects: parts/keys, parts/run, now.
-- `body` is JSON made by the caller and never decoded here (cjson would change it); `applied` is JSON made here.
local function write_event(run, kind, node, token, scope, body, applied)
  run.seq = run.seq + 1
  redis.call('XADD', of_shard('events'), '*', 'run', run_id, 'seq', run.seq, 'type', kind, 'at', now,
    'node', node, 'token', token, 'scope', scope, 'body', body, 'applied', applied)
end
