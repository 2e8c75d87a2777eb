-- answer_task: an outcome from outside of the runners: a person's, an event's, a timer's, another worker's.
--
-- KEYS    run
-- ARGV    prefix run_id now token attempt states timer signal artifact bytes body
--         attempt: the one that it must be, '' for any
--         states: those that may be answered, separated by spaces
--         timer: its kind if a timer asks ('' otherwise): time that the run was paused is added to what was due
--         signal: the completion signal, JSON
--         artifact, bytes: name and packed bytes of a result that the signal refers to, '' for none
--         body: JSON of the event
-- ANSWER  {answered} | {refused, state} | {waiting} (the timer is put off) | {over, status} | {unknown}
-- EVENT   node_answered
--@include parts/keys parts/run parts/event parts/token parts/scope

local function drop_timer()
  if timer ~= '' then
    redis.call('ZREM', of_shard('timers'), timer .. ' ' .. run_id .. ' ' .. token .. ' ' .. attempt)
  end
end

local AGAIN_MS = 10000
local run = load_run('paused_ms')
if not run then drop_timer() return {'unknown'} end
local record = get_token(token)
if timer ~= '' and is_in_limbo(run, token, record) then return put_off(timer, token, record) end
if not is_live(run) then drop_timer() return {'over', run.status} end
if not record or not is_scope_live(scope_of(token)) or (attempt ~= '' and tonumber(attempt) ~= record.attempt) then
  drop_timer()
  return {'unknown'}
end
if not string.find(' ' .. states .. ' ', ' ' .. record.state .. ' ', 1, true) then
  drop_timer()
  return {'refused', record.state}
end
if is_outdated(run, token, record) then drop_timer() return {'unknown'} end
if timer ~= '' and timer ~= 'wait' and record.due then
  local due = record.due + tonumber(run.more[1] or 0) - (record.paused_ms or 0)
  if run.status == 'PAUSED' then due = math.max(due, now + AGAIN_MS) end
  if due > now then
    set_timer(timer, token, record, due)
    return {'waiting'}
  end
end
if redis.call('HEXISTS', in_scope('outcomes', scope_of(token)), token) == 1 then
  drop_timer()
  return {'refused', 'answered'}
end

withdraw(run, record)
drop_attempt(token, record)
if artifact ~= '' then redis.call('HSET', of_run('artifacts'), artifact, bytes) end
store_answer(token, record, signal)
write_event(run, 'node_answered', record.node, token, scope_of(token), body, applied_json(run))
save_run(run)
return {'answered'}
