-- start_items: start the next slice of a map's items: a scope and tokens at the entries for each.
--
-- KEYS    run
-- ARGV    prefix run_id now token first plan body
--         first: index of the slice's first item, which must be the map's cursor
--         plan: JSON, schemas/plan.py, of one item's entries, and `items`: places of their values among the ARGV
--         body: JSON of the event
-- ANSWER  {started, count} | {idle} (no item was given: the map is full) | {parked} | {stale, digest} | {unadopted} | {duplicate}
--         | {over, status} | {unknown}
-- EVENT   items_started
--@include parts/keys parts/run parts/event parts/token parts/scope parts/emit parts/map

local plan = cjson.decode(plan)
local run = load_run()
if not run then return {'unknown'} end
if not is_live(run) then return {'over', run.status} end
local record = get_token(token)
if not record or record.state ~= 'mapping' or not is_scope_live(scope_of(token))
  or redis.call('HGET', of_token('map', token), 'cursor') ~= first then
  ignore('duplicate')
  return {'duplicate'}
end
if plan.digest ~= run.digest then return {'stale', run.digest} end
if not is_adopted(run, scope_of(token)) then return {'unadopted'} end
drop_attempt(token, record)
if run.status == 'PAUSED' then
  ask(run, token, record)
  return {'parked'}
end

if not plan.items then -- the request is answered, and the next one may come
  ask_for_items(run, token, record, map_counts(token))
  return {'idle'}
end
for i = 1, #(plan.artifacts or {}) do
  redis.call('HSET', of_run('artifacts'), plan.artifacts[i][1], ARGV[plan.artifacts[i][2]])
end
for i, value in ipairs(plan.items) do
  local index = tonumber(first) + i - 1
  plan.scope = path_of(token) .. '-' .. index
  redis.call('HSET', in_scope('scope', plan.scope), 'live', 0, 'item', ARGV[value], 'iteration', record.iteration or 0)
  if run.adopting then redis.call('HSET', in_scope('scope', plan.scope), 'adopted', run.digest) end
  redis.call('SADD', of_token('items', token), index)
  emit(run, plan)
end
redis.call('HINCRBY', of_token('map', token), 'running', #plan.items)
redis.call('HINCRBY', of_token('map', token), 'cursor', #plan.items)
ask_for_items(run, token, record, map_counts(token))
write_event(run, 'items_started', record.node, token, scope_of(token), body, applied_json(run))
save_run(run)
return {'started', #plan.items}
