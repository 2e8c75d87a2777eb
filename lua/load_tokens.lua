-- load_tokens: what a coordinator needs to route a batch of completion signals, in one round trip. Read only.
--
-- KEYS    run (of the first)
-- ARGV    prefix wanted
--         wanted: JSON [[run_id, token, [names in ctx], [loops], with_input], ...]
-- ANSWER  a list, one a signal: {fields, record, outputs, passes, arrived, item, map, outcome}
--         item: of a token in a map's item, its value and the iteration outside its loops
--         outcome: the stored one of an answered token, '' otherwise
--         map: of a map's token, total, cursor, running, done, parallel and the stored list of its items
--         fields: status, digest, workflow, batch, key, depth, '1' if its item does not follow the run's graph yet
--         (adopt_items), and input if it was asked for
--@include parts/answer

local FIELDS = {'status', 'digest', 'workflow', 'batch', 'key', 'depth', 'adopting'}
local WITH_INPUT = {'status', 'digest', 'workflow', 'batch', 'key', 'depth', 'adopting', 'input'}
local answer = {}
-- The scope that a token lives in, which follows from its id, and the keys that have it in their names.
local function place_of(run_id, token)
  local scope = string.match(string.sub(token, #run_id + 2), '^(.*)%.[^.]*$') or ''
  return scope, scope == '' and run_id or run_id .. '/' .. scope
end

for i, want in ipairs(cjson.decode(wanted)) do
  local run_id, token = want[1], want[2]
  local scope, suffix = place_of(run_id, token)
  local text = redis.call('HGET', prefix .. 'tokens:' .. suffix, token)
  local arrived, map, outcome = {}, {}, ''
  if text then
    local record = cjson.decode(text)
    if record.state == 'deciding' or record.state == 'answered' or record.state == 'calling' then
      arrived = arrived_values(prefix .. 'arrivals:' .. suffix, prefix .. 'context:' .. suffix, token, record)
    end
    if record.state == 'answered' then outcome = redis.call('HGET', prefix .. 'outcomes:' .. suffix, token) end
    if record.map then
      map = redis.call('HMGET', prefix .. 'map:' .. run_id .. '/' .. string.sub(token, #run_id + 2),
        'total', 'cursor', 'running', 'done', 'parallel', 'items')
    end
  end
  local outputs, passes = outputs_in(prefix .. 'context:' .. run_id, scope, want[3]), {}
  for j, loop in ipairs(want[4]) do
    passes[j] = redis.call('HGET', prefix .. 'loop:' .. suffix .. ':' .. loop, 'current_iteration') or '0'
  end
  local fields = redis.call('HMGET', prefix .. 'run:' .. run_id, unpack(want[5] and WITH_INPUT or FIELDS))
  local item = scope == '' and {} or redis.call('HMGET', prefix .. 'scope:' .. suffix, 'item', 'iteration', 'adopted')
  fields[7] = fields[7] and scope ~= '' and item[3] ~= fields[2] and '1' or ''
  answer[i] = {fields, text, outputs, passes, arrived, item, map, outcome}
end
return answer
