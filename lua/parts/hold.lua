-- Tokens of a run that failed: held, and restored by a retry as they were. Expects: parts/map.
local function hold(run, token, record)
  record.held = record.state
  withdraw(run, record)
  drop_timers(token, record)
  record.state, record.since = 'held', now
  if record.map then sweep_soon(token) end
  put_token(token, record)
end

-- Whether the outcome that came in while the run had failed is a failure too.
local function has_failed(token)
  local outcome = redis.call('HGET', in_scope('outcomes', scope_of(token)), token)
  return outcome and cjson.decode(outcome).status == 'failed'
end

-- What a token is restored to.
local function state_before(token, record)
  if record.state == 'dead' then
    record.failures = nil
    if record.map then return 'mapping' end
    return record.stream and 'queued' or 'deciding'
  end
  if record.held == 'running' and redis.call('HEXISTS', in_scope('outcomes', scope_of(token)), token) == 1 then
    return 'answered'
  end
  return record.held
end

local RESTORE = {}

function RESTORE.queued(run, token, record)
  record.due = nil
  enqueue(run, token, record, record.stream)
end

RESTORE.running, RESTORE.delayed = RESTORE.queued, RESTORE.queued

function RESTORE.parked(run, token, record)
  if record.stream then return RESTORE.queued(run, token, record) end
  ask_coordinator(run, token, record)
end

function RESTORE.deciding(run, token, record) ask_coordinator(run, token, record) end

-- After a failure a person is asked again, with all the time there is; in a run that was rebuilt, as before.
function RESTORE.asked(run, token, record)
  local scope, question = scope_of(token), 'asked ' .. token
  local kept = scope == '' and of_run('run') or in_scope('scope', scope)
  local approval = redis.call('HGET', kept, question)
  if not approval then return ask_coordinator(run, token, record) end
  redis.call('HDEL', kept, question)
  redis.call('HSET', of_shard('approvals'), token, approval)
  record.state = 'asked'
  if record.due then set_timer('deadline', token, record, record.due) end
  if record.remind_ms then set_timer('remind', token, record, now + record.remind_ms) end
  put_token(token, record)
end

function RESTORE.answered(run, token, record)
  if record.again == nil then -- it belongs to the epoch before: a task that nobody takes over for is tried again
    record.again = has_failed(token)
  end
  record.again = record.again or nil
  store_answer(token, record, redis.call('HGET', in_scope('outcomes', scope_of(token)), token))
end

function RESTORE.waiting(run, token, record)
  record.state = 'waiting'
  put_token(token, record)
end

function RESTORE.timed(run, token, record)
  record.state = 'timed'
  set_timer('wait', token, record, record.due)
  put_token(token, record)
end

function RESTORE.listening(run, token, record)
  record.state = 'listening'
  redis.call('HSET', of_shard('listeners:' .. record.event), token, record.key)
  if record.due then set_timer('deadline', token, record, record.due) end
  put_token(token, record)
end

function RESTORE.calling(run, token, record)
  record.state = 'calling'
  put_token(token, record)
  ask(run, token, record)
end

function RESTORE.mapping(run, token, record)
  local done, total = unpack(redis.call('HMGET', of_token('map', token), 'done', 'total'))
  if not total then record.map = nil end -- its keys are gone: it starts anew
  if done == total then return ask_coordinator(run, token, record) end -- what failed was to gather the results
  record.state = 'mapping'
  put_token(token, record)
  sweep_soon(token)
  redis.call('HDEL', in_scope('outcomes', scope_of(token)), token) -- an asking that was lost when the run failed
  ask_for_items(run, token, record, map_counts(token))
end

local function restore(run, token, record)
  local was = state_before(token, record)
  record.held, record.since = nil, now
  if record.map then
    redis.call('PERSIST', of_token('map', token))
    redis.call('PERSIST', of_token('results', token))
    if redis.call('SISMEMBER', of_run('adopting'), token) == 1 then follow_soon(token) end
  end
  RESTORE[was](run, token, record)
end
