-- The end of a map's item. Expects: parts/event, parts/map.
-- An item is over: keep its result, forget all else of it, and go on with its map.
local function close_item(run, scope, result)
  local map, index = map_of(scope)
  local record = get_token(map)
  redis.call('HSET', of_token('results', map), index, result)
  redis.call('SREM', of_token('items', map), index)
  redis.call('DEL', unpack(scope_keys(scope)))
  redis.call('HINCRBY', of_token('map', map), 'running', -1)
  local done = redis.call('HINCRBY', of_token('map', map), 'done', 1)
  local counts = map_counts(map)
  if done == counts[2] then
    ask_coordinator(run, map, record)
  else
    ask_for_items(run, map, record, counts)
  end
  local shown = string.sub(result, 1, 11) == 'artifact://' and '"stored_result":"' .. result .. '"' or '"result":' .. result
  write_event(run, 'item_completed', record.node, map, scope_of(map), '{"index":' .. index .. ',' .. shown .. '}',
    applied_json(run))
end
