-- drop_run: take a run from Redis, with its tasks and timers: it is rebuilt from what is recorded, or was recorded as
-- ended. Its child runs stay, and so does which they are.
--
-- KEYS    run
-- ARGV    prefix run_id now before
--         before: the event that it must not have come to, '' if it goes wherever it is
-- ANSWER  {dropped} | {beyond, seq} (it went on, or was rebuilt, meanwhile) | {unknown}
--@include parts/keys parts/run parts/event parts/token parts/scope parts/expire

local CHILDREN_MS = 7 * 24 * 3600 * 1000 -- if nobody rebuilds it

local run = load_run('loops', 'parent')
if not run then return {'unknown'} end
if before ~= '' and run.seq >= tonumber(before) then return {'beyond', run.seq} end
local loops, parent = run.more[1] or '', run.more[2]

local function drop_timer(kind, token) redis.call('ZREM', of_shard('timers'), kind .. ' ' .. run_id .. ' ' .. token .. ' 0') end

local function drop_scope(scope)
  each_token(scope, function(token, record)
    withdraw(run, record)
    drop_attempt(token, record)
    if not record.map then return end
    for _, index in ipairs(redis.call('SUNION', of_token('items', token), of_token('held', token))) do
      drop_scope(path_of(token) .. '-' .. index)
      redis.call('DEL', unpack(scope_keys(path_of(token) .. '-' .. index)))
    end
    redis.call('DEL', of_token('items', token), of_token('held', token), of_token('map', token), of_token('results', token))
    drop_timer('sweep', token)
    drop_timer('adopt', token)
  end)
end

drop_scope('')
for _, kind in ipairs({'run', 'follow', 'unpark', 'cancel'}) do drop_timer(kind, '-') end
if is_live(run) and run.batch ~= '' then redis.call('HINCRBY', of_shard('batch:' .. run.batch), 'running', -1) end
if parent then redis.call('SREM', of_shard('children:' .. parent), run_id) end
redis.call('ZREM', of_shard('live_runs'), run_id)
for node in string.gmatch(loops, '%S+') do redis.call('DEL', loop_key(node, '')) end
for _, kind in ipairs(RUN_KEYS) do
  if kind ~= 'children' then redis.call('DEL', of_run(kind)) end
end
redis.call('PEXPIRE', of_run('children'), CHILDREN_MS)
return {'dropped'}
