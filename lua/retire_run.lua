-- retire_run: a run that has ended is recorded, so its keys go after its retention.
--
-- KEYS    run
-- ARGV    prefix run_id
-- ANSWER  {retired} | {live} | {unknown}
--@include parts/keys parts/expire

local known = redis.call('HMGET', of_run('run'), 'status', 'retention_ms', 'loops')
if not known[1] then return {'unknown'} end
if known[1] == 'RUNNING' or known[1] == 'PAUSED' then return {'live'} end
expire_run(known[3] or '', known[2])
return {'retired'}
