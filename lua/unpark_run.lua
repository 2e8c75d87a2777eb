-- unpark_run: emit a slice of what was parked while the run was paused.
--
-- KEYS    run
-- ARGV    prefix run_id now
-- ANSWER  {more} | {done} | {gone} (the run is not running)
-- EVENT   tokens_unparked
--@include parts/keys parts/run parts/event parts/token parts/scope

local SLICE = 200
local timer = 'unpark ' .. run_id .. ' - 0'
redis.call('ZREM', of_shard('timers'), timer)
local run = load_run()
if not run or run.status ~= 'RUNNING' then return {'gone'} end

local function is_asked(token) return redis.call('HEXISTS', in_scope('outcomes', scope_of(token)), token) == 1 end

for _ = 1, SLICE do
  local token = redis.call('LPOP', of_run('parked'))
  if not token then break end
  local record = is_scope_live(scope_of(token), true) and get_token(token)
  if record and record.state == 'parked' and record.stream then
    enqueue(run, token, record, record.stream)
  elseif record and record.state == 'parked' then
    ask_coordinator(run, token, record)
  elseif record and REPEATED[record.state] and not is_asked(token) then -- asked to look at it meanwhile, maybe often
    ask(run, token, record)
  end
end
if next(changed) then write_event(run, 'tokens_unparked', '', '', '', '', applied_json(run)) end
save_run(run)
if redis.call('EXISTS', of_run('parked')) == 0 then return {'done'} end
redis.call('ZADD', of_shard('timers'), now, timer)
return {'more'}
