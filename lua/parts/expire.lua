-- The keys of a run that has ended. Expects: parts/keys.
local RUN_KEYS = {'run', 'ir', 'tokens', 'context', 'ranks', 'ends', 'waiting', 'pending', 'arrivals', 'outcomes',
  'artifacts', 'parked', 'children', 'adopting', 'first_ir'}

local function expire_run(loops, ms)
  for _, kind in ipairs(RUN_KEYS) do redis.call('PEXPIRE', of_run(kind), ms) end
  for node in string.gmatch(loops, '%S+') do redis.call('PEXPIRE', loop_key(node, ''), ms) end
end

-- A run that goes on again.
local function keep_run(loops)
  for _, kind in ipairs(RUN_KEYS) do redis.call('PERSIST', of_run(kind)) end
  for node in string.gmatch(loops, '%S+') do redis.call('PERSIST', loop_key(node, '')) end
end
