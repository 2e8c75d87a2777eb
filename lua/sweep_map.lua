-- sweep_map: bring a slice of a map's items in line with their map: held with it, restored with it, gone with it.
--
-- KEYS    run
-- ARGV    prefix run_id now token
--         token: the map's
-- ANSWER  {more} | {done}
-- EVENT   items_held or items_restored
--@include parts/keys parts/run parts/event parts/token parts/scope parts/map parts/hold

local SLICE = 50
local timer = 'sweep ' .. run_id .. ' ' .. token .. ' 0'
local items, held = of_token('items', token), of_token('held', token)
local NOBODY = {status = '', batch = '', priority = '', live = 0}

local run = load_run('loops', 'retention_ms')
local record = run and (is_live(run) or run.status == 'FAILED') and get_token(token)

local function done()
  redis.call('ZREM', of_shard('timers'), timer)
  return {'done'}
end

local function each_item(from, visit)
  for _, index in ipairs(redis.call('SRANDMEMBER', from, SLICE)) do visit(index, path_of(token) .. '-' .. index) end
  if redis.call('EXISTS', from) == 0 then return done() end
  redis.call('ZADD', of_shard('timers'), now, timer)
  return {'more'}
end

-- No retention of the run's own keys is longer: recorded or not, they go before.
local HELD_MS = 7 * 24 * 3600 * 1000 + tonumber(run and run.more[2] or 0)

local function set_ttl(names, ms)
  for _, name in ipairs(names) do
    if ms then redis.call('PEXPIRE', name, ms) else redis.call('PERSIST', name) end
  end
end

-- The map is over: withdraw what its items have on streams, and delete their keys.
local function drop_item(index, scope)
  each_token(scope, function(other, its) consume(run or NOBODY, other, its) end)
  redis.call('DEL', unpack(scope_keys(scope)))
  redis.call('SREM', items, index)
  redis.call('SREM', held, index)
end

-- The run failed: hold what the item has, and let its keys go with those of the run.
local function hold_item(index, scope)
  each_token(scope, function(other, its)
    if its.state ~= 'dead' and its.state ~= 'held' then hold(run, other, its) end
    if its.state == 'dead' and its.map then sweep_soon(other) end
  end)
  redis.call('SMOVE', items, held, index)
  set_ttl(scope_keys(scope), HELD_MS)
end

-- A retry: the item goes on as it was.
local function restore_item(index, scope)
  set_ttl(scope_keys(scope))
  each_token(scope, function(other, its)
    if its.state == 'dead' then count(run, its.node, 'failed', -1) end
    if its.state == 'dead' or its.state == 'held' then restore(run, other, its) end
  end)
  redis.call('SMOVE', held, items, index)
end

local function say(event)
  if not next(changed) then return end
  write_event(run, event, record.node, token, scope_of(token), '', applied_json(run))
  save_run(run)
end

if not record or not record.map then -- it is gone, or a patch let it begin anew
  local answer = each_item(redis.call('EXISTS', items) == 1 and items or held, drop_item)
  if redis.call('EXISTS', items, held) > 0 then
    redis.call('ZADD', of_shard('timers'), now, timer)
    return {'more'}
  end
  redis.call('UNLINK', of_token('map', token), of_token('results', token))
  return answer
end
-- A held map of a run that goes on lies in an item that is still held: with it, it is restored, and swept anew.
if run.status == 'FAILED' and (record.state == 'held' or record.state == 'dead') then
  local answer = each_item(items, hold_item)
  set_ttl({held, of_token('map', token), of_token('results', token)}, HELD_MS)
  say('items_held')
  return answer
end
if record.state == 'mapping' and is_live(run) and is_scope_live(scope_of(token)) then -- else it goes with what is around it
  local answer = each_item(held, restore_item)
  if answer[1] == 'done' and redis.call('SISMEMBER', of_run('adopting'), token) == 1 then follow_soon(token) end
  say('items_restored')
  return answer
end
return done()
