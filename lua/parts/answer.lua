-- Values in the form that the Python side reads.
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
