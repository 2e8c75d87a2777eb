-- finish_task: store the outcome of an execution under its token and wake a coordinator, in one step.
--
-- The stream entry stays pending until the outcome is routed, so a signal that is lost is found again.
--
-- KEYS    run
-- ARGV    prefix run_id now token attempt stream entry signal artifact bytes
--         signal: the completion signal, JSON
--         artifact, bytes: name and packed bytes of a result that the signal refers to, '' for none
-- ANSWER  {finished} | {held} (the token is held, its run has failed: stored, not routed) | {fenced} (another attempt counts)
--         | {over} (the run has ended or is unknown)
--@include parts/keys parts/run parts/token parts/scope

-- false if there is one already.
local function store()
  if redis.call('HSETNX', in_scope('outcomes', scope_of(token)), token, signal) == 0 then return false end
  if artifact ~= '' then redis.call('HSET', of_run('artifacts'), artifact, bytes) end
  return true
end

local known = redis.call('HMGET', of_run('run'), 'status', 'digest', 'adopting')
local status, text = known[1], redis.call('HGET', in_scope('tokens', scope_of(token)), token)
local record = text and cjson.decode(text)
if text and known[2] then -- the token as it is and the IR it ran under go with the signal: a plain hop needs nothing more
  signal = '{"record":' .. text .. ',"digest":"' .. known[2] .. '",' .. string.sub(signal, 2)
end
local live = status == 'RUNNING' or status == 'PAUSED'
local held = record and (record.state == 'held' or status == 'FAILED')
local current = record and record.attempt == tonumber(attempt) and 'running' == (record.held or record.state)
  and (entry == '' or not record.entry or record.entry == entry) -- of the Redis before a recovery: numbered alike
  and not (known[3] and is_outdated({digest = known[2], adopting = known[3]}, token, record))
local unswept = status == 'FAILED' and record and record.entry == entry -- a retry may come before its item is held
if not live and not unswept and stream ~= '' then
  redis.call('XACK', of_shard(stream), 'runners', entry)
  redis.call('XDEL', of_shard(stream), entry)
end
if not live and status ~= 'FAILED' then
  ignore('over')
  return {'over'}
end
if not current or not store() then
  ignore(live and 'fenced' or 'over')
  return {live and 'fenced' or 'over'}
end
if held then
  local left = redis.call('PTTL', of_run('run'))
  if left > 0 then redis.call('PEXPIRE', of_run('artifacts'), left) end
  if left > 0 and not unswept then redis.call('PEXPIRE', in_scope('outcomes', scope_of(token)), left) end
  return {'held'}
end
redis.call('RPUSH', of_shard('completion_signals'), signal)
return {'finished'}
