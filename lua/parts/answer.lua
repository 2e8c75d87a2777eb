-- Values in the form that the Python side reads.
-- The outputs that `names` ask for: `<node>` in the scope itself, `<node>@<level>` in the enclosing one of that level. `base` is
-- the key of the run's own outputs.
local function outputs_in(base, scope, names)
  if #names == 0 then return {} end
  if scope == '' then return redis.call('HMGET', base, unpack(names)) end
  local outputs = {}
  for i, name in ipairs(names) do
    local node, level = string.match(name, '^([^@]+)@?(%d*)$')
    local part, left = scope, tonumber(level)
    if left then
      part = ''
      for element in string.gmatch(scope, '[^.]+') do
        if left == 0 then break end
        part, left = part == '' and element or part .. '.' .. element, left - 1
      end
    end
    outputs[i] = redis.call('HGET', part == '' and base or base .. '/' .. part, node)
  end
  return outputs
end

-- What arrived for a token: predecessor, value, predecessor, value, ... `context` is the key of its scope's outputs.
local function arrived_values(arrivals, context, token, record)
  local arrived = {}
  for _, arrival in ipairs(record.from or {}) do
    arrived[#arrived + 1] = arrival[1]
    arrived[#arrived + 1] = record.carries and redis.call('HGET', arrivals, token .. '/' .. arrival[1])
      or redis.call('HGET', context, arrival[1])
  end
  return arrived
end
