-- measure_model: take one measurement of a model on a kind of GPU into its moving average.
--
-- KEYS    measured
-- ARGV    field value weight
--         field: <pool>|<what was measured>
--         weight: of the new value, 0 to 1; the first one is taken as it is
-- ANSWER  {measured, average} | {refused} (no number, not finite or below 0: nothing is changed)

local function number(text)
  local n = tonumber(text or '')
  return n and n >= 0 and n < math.huge and n
end

local new, old = number(value), number(redis.call('HGET', measured, field))
if not new then return {'refused'} end
local average = string.format('%.14g', old and old + tonumber(weight) * (new - old) or new)
redis.call('HSET', measured, field, average)
return {'measured', average}
