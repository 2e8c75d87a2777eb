-- inspect_model: a model's stream whole, for people: redis-cli --eval lua/inspect_model.lua gemma3:4b [, prefix]
--
-- Read only and free of includes, so that it works as it stands.
local pool, prefix = KEYS[1], ARGV[1] or ''
local lines = {}

local function say(text) lines[#lines + 1] = text end

local all = redis.call('HGETALL', prefix .. 'model:' .. pool)
for i = 1, #all, 2 do say(all[i] .. ' = ' .. all[i + 1]) end
for _, lane in ipairs({'', ':interactive'}) do
  local key = prefix .. 'wf.tasks.agent.' .. pool .. lane
  if redis.call('EXISTS', key) == 1 then
    say(key .. ': ' .. redis.call('XLEN', key) .. ' entries')
    local groups = redis.pcall('XPENDING', key, 'runners')
    if not groups.err and groups[1] > 0 then
      for _, holder in ipairs(groups[4]) do say('  ' .. holder[1] .. ' holds ' .. holder[2]) end
    end
    local head = redis.call('XRANGE', key, '-', '+', 'COUNT', 3)
    for _, entry in ipairs(head) do say('  ' .. entry[1] .. '  ' .. table.concat(entry[2], ' ')) end
  end
end
if #lines == 0 then return {'no model ' .. pool .. ' in Redis'} end
return lines
