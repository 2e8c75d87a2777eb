-- end_run: end a run from outside (cancelled, timed out): withdraw what is not started, fence what is.
--
-- A run over its time that is paused, or in which all waits for a model, a person or an event, is asked again later: it
-- waits rightly. What its maps and children still do is ended by timers (sweep_map, end_run).
--
-- KEYS    run
-- ARGV    prefix run_id now status body
--         status: CANCELLED or TIMED_OUT
--         body: JSON of the event: who asked, and why
-- ANSWER  {ended, status} | {over, status} (it had ended) | {waiting} | {unknown}
-- EVENT   run_cancelled or run_timed_out
--@include parts/keys parts/run parts/event parts/token parts/scope parts/expire parts/close

local AGAIN_MS = 10000
local run_timer = 'run ' .. run_id .. ' - 0'
local run = load_run()
if not run or not is_live(run) then
  redis.call('ZREM', of_shard('timers'), run_timer)
  return run and {'over', run.status} or {'unknown'}
end

local PATIENT = {queued = true, waiting = true, parked = true, asked = true, listening = true, timed = true}

-- Whether nothing works in a scope: all waits for a model, a person, an event, a time or for what does so itself.
-- Of a great many tokens only so many are looked at.
local looks_left = 1000

local function waits_rightly(id, scope)
  local own = id .. (scope == '' and '' or '/' .. scope)
  if redis.call('HGET', of_shard('run:' .. id), 'status') == 'PAUSED' then return true end
  local all = redis.call('HGETALL', of_shard('tokens:' .. own))
  for i = 1, #all, 2 do
    if looks_left == 0 then return true end
    looks_left = looks_left - 1
    local record, path = cjson.decode(all[i + 1]), string.sub(all[i], #id + 2)
    if record.state == 'mapping' then
      for _, index in ipairs(redis.call('SMEMBERS', of_shard('items:' .. id .. '/' .. path))) do
        if not waits_rightly(id, path .. '-' .. index) then return false end
      end
    elseif record.state == 'calling' then
      if not waits_rightly(record.child, '') then return false end
    elseif not PATIENT[record.state] then
      return false
    end
  end
  return true
end

-- Until when the run has time, not counting the time that it was paused.
local function limit()
  local known = redis.call('HMGET', of_run('run'), 'created_at', 'timeout_ms', 'paused_ms')
  return tonumber(known[1]) + tonumber(known[2] or 0) + tonumber(known[3] or 0)
end

if status == 'TIMED_OUT' then
  local due = math.max(limit(), waits_rightly(run_id, '') and now + AGAIN_MS or 0)
  if due > now then
    redis.call('ZADD', of_shard('timers'), due, run_timer)
    return {'waiting'}
  end
end
each_token('', function(token, record) consume(run, token, record) end)
run.live = 0
redis.call('HSET', of_run('run'), 'error', body)
close_run(run, status, body)
return {'ended', run.status}
