-- adopt_items: items of a map go over to the run's newest graph: a slice of them, or some.
--
-- KEYS    run
-- ARGV    prefix run_id now token digest places indexes
--         token: the map's
--         digest: of the IR that `places` (JSON, schemas/plan.py) are of: the nodes of the map's graph
--         indexes: of items, separated by spaces, '' for the next slice
-- ANSWER  {more} | {done} | {later} (its items are held, or their end is under way) | {stale, digest}
-- EVENT   items_patched, one a slice; item_completed for those in which nothing is left
--@include parts/keys parts/run parts/event parts/token parts/scope parts/emit parts/map parts/item parts/adopt

local SLICE = 50
local LATER_MS = 1000
local timer = 'adopt ' .. run_id .. ' ' .. token .. ' 0'
local run = load_run()
local record = run and get_token(token)

local function done()
  redis.call('ZREM', of_shard('timers'), timer)
  redis.call('SREM', of_run('adopting'), token)
  if run and redis.call('EXISTS', of_run('adopting')) == 0 then redis.call('HDEL', of_run('run'), 'adopting') end
  return {'done'}
end

if run and run.adopting and run.status == 'FAILED' then -- a retry sets the timer again
  redis.call('ZREM', of_shard('timers'), timer)
  return {'later'}
end
if not run or not run.adopting or not is_live(run) then return done() end
if not record or not record.map or not is_scope_live(scope_of(token), true) then return done() end
if redis.call('EXISTS', of_token('items', token), of_token('held', token)) == 0 then return done() end
-- A slice might miss what is restored meanwhile; an item that is asked for is restored or not.
local is_held = indexes == '' and redis.call('EXISTS', of_token('held', token)) == 1
if record.state ~= 'mapping' or not is_scope_live(scope_of(token)) or is_held then
  redis.call('ZADD', of_shard('timers'), now + LATER_MS, timer)
  return {'later'}
end
if digest ~= run.digest then return {'stale', run.digest} end

local change, places = cjson.decode(run.adopting), cjson.decode(places)

local adopted, empty, all_gone = {}, {}, {}

local function adopt_item(item)
  local scope = path_of(token) .. '-' .. item
  if redis.call('EXISTS', in_scope('scope', scope)) == 0 or is_adopted(run, scope) then return end
  redis.call('HSET', in_scope('scope', scope), 'adopted', run.digest)
  local alive, gone = adopt_scope(run, scope, places, change)
  adopted[#adopted + 1] = item
  if not alive then empty[#empty + 1] = scope end
  for _, one in ipairs(gone) do all_gone[#all_gone + 1] = one end
end

local function say()
  if #adopted == 0 then return end
  local body = '{"indexes":[' .. table.concat(adopted, ',') .. ']'
  if #change.loops > 0 then body = body .. ',"loops":' .. cjson.encode(change.loops) end
  if change.unranked then body = body .. ',"unranked":true' end
  write_event(run, 'items_patched', record.node, token, scope_of(token), body .. '}',
    applied_json(run, #all_gone > 0 and all_gone or nil))
  for _, scope in ipairs(empty) do
    close_item(run, scope, redis.call('HGET', in_scope('context', scope), places[''].exit) or 'null')
  end
  save_run(run)
end

if indexes ~= '' then
  local answer = 'more'
  for index in string.gmatch(indexes, '%d+') do
    if redis.call('SISMEMBER', of_token('held', token), index) == 1 then answer = 'later' else adopt_item(index) end
  end
  say()
  return {answer}
end
local cursor, members = unpack(redis.call('SSCAN', of_token('items', token),
  redis.call('HGET', of_token('map', token), 'adopt') or 0, 'COUNT', SLICE))
for _, item in ipairs(members) do adopt_item(item) end
say()
if cursor == '0' then return done() end
redis.call('HSET', of_token('map', token), 'adopt', cursor)
redis.call('ZADD', of_shard('timers'), now, timer)
return {'more'}
