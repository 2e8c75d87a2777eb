-- inspect_run: a run whole, for people: redis-cli --eval lua/inspect_run.lua run_123 [, prefix]
--
-- Read only and free of includes, so that it works as it stands. Long values are cut.
local run_id, prefix = KEYS[1], ARGV[1] or ''
local lines = {}

local function say(text) lines[#lines + 1] = text end

local function show(title, key)
  local kind = redis.call('TYPE', prefix .. key).ok
  if kind == 'none' then return end
  say(title .. '  (' .. prefix .. key .. ')')
  if kind == 'set' then
    say('  ' .. table.concat(redis.call('SMEMBERS', prefix .. key), ' '))
    return
  end
  local all = redis.call('HGETALL', prefix .. key)
  for i = 1, #all, 2 do
    local value = all[i + 1]
    if #value > 200 then value = string.sub(value, 1, 200) .. '... (' .. #value .. ' bytes)' end
    say('  ' .. all[i] .. ' = ' .. value)
  end
end

if redis.call('EXISTS', prefix .. 'run:' .. run_id) == 0 then return {'no run ' .. run_id .. ' in Redis'} end
show('run', 'run:' .. run_id)
show('live tokens', 'tokens:' .. run_id)
for _, token in ipairs(redis.call('HKEYS', prefix .. 'tokens:' .. run_id)) do
  local path = run_id .. '/' .. string.sub(token, #run_id + 2)
  show('map of ' .. token, 'map:' .. path)
  show('items of it that go on', 'items:' .. path)
end
show('children', 'children:' .. run_id)
show('stored outcomes', 'outcomes:' .. run_id)
show('outputs', 'context:' .. run_id)
show('waiting nodes', 'waiting:' .. run_id)
show('tokens that can still reach them', 'pending:' .. run_id)
for node in string.gmatch(redis.call('HGET', prefix .. 'run:' .. run_id, 'loops') or '', '%S+') do
  show('loop ' .. node, 'loop:' .. run_id .. ':' .. node)
end
show('nodes that emitted nothing', 'ends:' .. run_id)
local ttl = redis.call('PTTL', prefix .. 'run:' .. run_id)
say(ttl < 0 and 'no TTL: it has not ended' or 'these keys go in ' .. math.floor(ttl / 1000) .. ' s')
return lines
