-- How far a map is, and asking for more of its items. Expects: parts/scope.
local SLICE = 100 -- items that are started in one step

-- The start of more items is asked for when a slice has room, or half of what may run at once.
local function ask_for_items(run, map, record, counts)
  local cursor, total, room = counts[1], counts[2], counts[3] - counts[4]
  local asked = redis.call('HEXISTS', in_scope('outcomes', scope_of(map)), map) == 1
  if cursor < total and room >= math.min(SLICE, math.ceil(counts[3] / 2)) and not asked then ask(run, map, record) end
end

-- cursor, total, parallel, running of a map
local function map_counts(map)
  local counts = redis.call('HMGET', of_token('map', map), 'cursor', 'total', 'parallel', 'running')
  for i = 1, 4 do counts[i] = tonumber(counts[i]) end
  return counts
end
