-- load_tokens: what a coordinator needs to route a batch of completion signals, in one round trip. Read only.
--
-- KEYS    run (of the first)
-- ARGV    prefix wanted
--         wanted: JSON [[run_id, token, [names in ctx], [loops], scope, with_input], ...]
-- ANSWER  a list, one a signal: {fields, record, outputs, passes, arrived}
--         fields: status, digest, workflow, batch, key, and input if it was asked for
--@include parts/answer

local FIELDS = {'status', 'digest', 'workflow', 'batch', 'key'}
local WITH_INPUT = {'status', 'digest', 'workflow', 'batch', 'key', 'input'}
local answer = {}
for i, want in ipairs(cjson.decode(wanted)) do
  local run_id, token, scope = want[1], want[2], want[5]
  local suffix = scope == '' and run_id or run_id .. '/' .. scope
  local text = redis.call('HGET', prefix .. 'tokens:' .. run_id, token)
  local arrived = {}
  if text then
    local record = cjson.decode(text)
    if record.state == 'deciding' then
      arrived = arrived_values(prefix .. 'arrivals:' .. run_id, prefix .. 'context:' .. suffix, token, record)
    end
  end
  local outputs = {}
  if #want[3] > 0 then outputs = redis.call('HMGET', prefix .. 'context:' .. suffix, unpack(want[3])) end
  local passes = {}
  for j, loop in ipairs(want[4]) do
    passes[j] = redis.call('HGET', prefix .. 'loop:' .. suffix .. ':' .. loop, 'current_iteration') or '0'
  end
  local fields = redis.call('HMGET', prefix .. 'run:' .. run_id, unpack(want[6] and WITH_INPUT or FIELDS))
  answer[i] = {fields, text, outputs, passes, arrived}
end
return answer
