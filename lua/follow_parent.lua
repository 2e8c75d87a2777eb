-- follow_parent: bring a child run in line with its parent: paused with it, resumed with it.
--
-- It looks at what the parent is now, so that the order in which timers are handled does not matter.
--
-- KEYS    run
-- ARGV    prefix run_id now body
--         body: JSON of the event: who asked
-- ANSWER  {paused} | {resumed} | {already} | {orphaned} (its parent has ended: it is cancelled by a timer) | {over, status} | {unknown}
-- EVENT   run_paused or run_resumed
--@include parts/keys parts/run parts/event parts/pause

redis.call('ZREM', of_shard('timers'), 'follow ' .. run_id .. ' - 0')
local run = load_run('parent')
if not run or not run.more[1] then return {'unknown'} end
local status = redis.call('HGET', of_shard('run:' .. run.more[1]), 'status')
if status == 'PAUSED' then return pause(run, body) end
if status == 'RUNNING' then return resume(run, body) end
if status == 'FAILED' then return {'already'} end -- it may be retried
redis.call('ZADD', of_shard('timers'), now, 'cancel ' .. run_id .. ' - 0')
return {'orphaned'}
