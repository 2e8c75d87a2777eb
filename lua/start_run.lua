-- start_run: create a run and put its entries to work.
--
-- KEYS    run
-- ARGV    prefix run_id now fields ir input plan body
--         fields: JSON object of strings, the run hash; `request` in it tells the same request from another one
--         plan: JSON, schemas/plan.py, of the entries; its value indexes point at the further ARGV
--         body: JSON of the event
-- ANSWER  {started} | {exists} (the same request came before) | {conflict} (another one did)
-- EVENT   run_started
--@include parts/keys parts/run parts/event parts/token parts/scope parts/emit

local fields = cjson.decode(fields)
local request = redis.call('HGET', of_run('run'), 'request')
if request then return {request == fields.request and 'exists' or 'conflict'} end

local flat = {'status', 'RUNNING', 'seq', 0, 'live', 0, 'made', 0, 'input', input}
for name, value in pairs(fields) do
  flat[#flat + 1] = name
  flat[#flat + 1] = value
end
redis.call('HSET', of_run('run'), unpack(flat))
redis.call('SET', of_run('ir'), ir)
redis.call('ZADD', of_shard('live_runs'), now, run_id)
for stream in string.gmatch(fields.streams or '', '%S+') do redis.call('SADD', of_shard('streams'), stream) end
if fields.timeout_ms then
  redis.call('ZADD', of_shard('timers'), now + tonumber(fields.timeout_ms), 'run ' .. run_id .. ' - 0')
end

if fields.parent then -- its end, and what is done to its parent, reach the child by this set
  redis.call('SADD', of_shard('children:' .. fields.parent), run_id)
  if redis.call('HGET', of_shard('run:' .. fields.parent), 'status') ~= 'RUNNING' then
    redis.call('ZADD', of_shard('timers'), now, 'follow ' .. run_id .. ' - 0')
  end
end

local run = load_run()
if run.batch ~= '' then
  redis.call('HINCRBY', of_shard('batch:' .. run.batch), 'running', 1)
  redis.call('PERSIST', of_shard('batch:' .. run.batch))
end
local plan = cjson.decode(plan)
for i = 1, #(plan.artifacts or {}) do
  redis.call('HSET', of_run('artifacts'), plan.artifacts[i][1], ARGV[plan.artifacts[i][2]])
end
emit(run, plan)
write_event(run, 'run_started', '', '', '', body, applied_json(run))
save_run(run)
return {'started'}
