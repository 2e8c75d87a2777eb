-- Values in the form that the Python side reads.
-- What arrived for a token: predecessor, value, predecessor, value, ...
local function arrived_values(prefix, run_id, token, entry)
  local arrived = {}
  for _, arrival in ipairs(entry.from or {}) do
    arrived[#arrived + 1] = arrival[1]
    arrived[#arrived + 1] = redis.call('HGET', prefix .. 'arrivals:' .. run_id, token .. '/' .. arrival[1])
  end
  return arrived
end
