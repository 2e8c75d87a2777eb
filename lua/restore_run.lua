-- restore_run: wake a run whose keys were written from its recorded state (lua/run_image.py): all tokens are held.
--
-- KEYS    run
-- ARGV    prefix run_id now kind body
--         kind: run_recovered, or run_forked for a new run
--         body: JSON of the event
-- ANSWER  {restored}
-- EVENT   run_recovered or run_forked
--@include parts/keys parts/run parts/event parts/token parts/scope parts/map parts/hold

local run = load_run('timeout_ms', 'created_at', 'paused_ms', 'parent', 'streams')
local timeout_ms, created_at, paused_ms, parent, streams = unpack(run.more, 1, 5)
redis.call('ZADD', of_shard('live_runs'), created_at, run_id)
for stream in string.gmatch(streams or '', '%S+') do redis.call('SADD', of_shard('streams'), stream) end
if timeout_ms then
  local due = tonumber(created_at) + tonumber(timeout_ms) + tonumber(paused_ms or 0)
  redis.call('ZADD', of_shard('timers'), math.max(due, now), 'run ' .. run_id .. ' - 0')
end
if run.batch ~= '' then
  redis.call('HINCRBY', of_shard('batch:' .. run.batch), 'running', 1)
  redis.call('PERSIST', of_shard('batch:' .. run.batch))
end
-- A child run is rebuilt before its parent, and finds out later what that came to if nobody rebuilds it.
local PARENT_MS = 600000
local function follow(child, due) redis.call('ZADD', of_shard('timers'), due, 'follow ' .. child .. ' - 0') end
if parent then
  redis.call('SADD', of_shard('children:' .. parent), run_id)
  follow(run_id, redis.call('EXISTS', of_shard('run:' .. parent)) == 1 and now or now + PARENT_MS)
end
redis.call('PERSIST', of_run('children'))
for _, child in ipairs(redis.call('SMEMBERS', of_run('children'))) do follow(child, now) end

run.live = 0
each_token('', function(token, record)
  restore(run, token, record)
  run.live = run.live + 1
end)
write_event(run, kind, '', '', '', body, applied_json(run))
save_run(run)
return {'restored'}
