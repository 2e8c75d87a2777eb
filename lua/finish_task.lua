-- finish_task: store the outcome of an execution under its token and wake a coordinator, in one step.
--
-- The stream entry stays pending until the outcome is routed, so a signal that is lost is found again.
--
-- KEYS    run
-- ARGV    prefix run_id now token attempt stream entry signal artifact bytes
--         signal: the completion signal, JSON
--         artifact, bytes: name and packed bytes of a result that the signal refers to, '' for none
-- ANSWER  {finished} | {held} (the run has failed: stored, not routed) | {fenced} (another attempt counts)
--         | {over} (the run has ended or is unknown)
--@include parts/keys parts/run parts/token

-- false if there is one already.
local function store()
  if redis.call('HSETNX', of_run('outcomes'), token, signal) == 0 then return false end
  if artifact ~= '' then redis.call('HSET', of_run('artifacts'), artifact, bytes) end
  return true
end

local known = redis.call('HMGET', of_run('run'), 'status', 'digest')
local status, text = known[1], redis.call('HGET', of_run('tokens'), token)
local record = text and cjson.decode(text)
if text and known[2] then -- the token as it is and the IR it ran under go with the signal: a plain hop needs nothing more
  signal = '{"record":' .. text .. ',"digest":"' .. known[2] .. '",' .. string.sub(signal, 2)
end
if status ~= 'RUNNING' and status ~= 'PAUSED' then
  if stream ~= '' then
    redis.call('XACK', of_shard(stream), 'runners', entry)
    redis.call('XDEL', of_shard(stream), entry)
  end
  local held = status == 'FAILED' and record and record.state == 'held' and record.held == 'running'
  if held and record.attempt == tonumber(attempt) and store() then
    local left = redis.call('PTTL', of_run('run'))
    redis.call('PEXPIRE', of_run('outcomes'), left)
    redis.call('PEXPIRE', of_run('artifacts'), left)
    return {'held'}
  end
  ignore('over')
  return {'over'}
end
if not record or record.state ~= 'running' or record.attempt ~= tonumber(attempt) or not store() then
  ignore('fenced')
  return {'fenced'}
end
redis.call('RPUSH', of_shard('completion_signals'), signal)
return {'finished'}
