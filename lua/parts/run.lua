-- The run as this script sees it, and the counts kept beside it. Expects: parts/keys, now.
-- nil if there is no such run; `...`: further fields of the hash, which it gives as `more`. `seq`, `live` and `made`
-- (tokens made so far) are written back by save_run.
local function load_run(...)
  local values = redis.call('HMGET', of_run('run'), 'status', 'digest', 'seq', 'live', 'made', 'batch', 'priority',
    'adopting', ...)
  if not values[1] then return nil end
  return {status = values[1], digest = values[2], seq = tonumber(values[3]), live = tonumber(values[4]),
    made = tonumber(values[5]), batch = values[6] or '', priority = values[7] or '', adopting = values[8] or nil,
    more = {unpack(values, 9)}}
end

local function is_live(run) return run.status == 'RUNNING' or run.status == 'PAUSED' end

local function save_run(run)
  redis.call('HSET', of_run('run'), 'seq', run.seq, 'live', run.live, 'made', run.made)
end

-- One signal or claim that changed nothing.
local function ignore(kind) redis.call('HINCRBY', of_shard('counters'), kind, 1) end

-- A node's count in its batch: state is queued, running, done or failed.
local function count(run, node, state, by)
  if run.batch ~= '' then
    redis.call('HINCRBY', of_shard('batch:' .. run.batch), node .. '|' .. state, by)
  end
end

-- A model's count: what is queued or running. Runners choose by the backlog of its lanes: how many tasks are queued, and
-- since when there is always one.
local function count_model(stream, state, by)
  local lane = string.match(stream, '^wf%.tasks%.agent%.(.+)$')
  if not lane then return end
  redis.call('HINCRBY', of_shard('model:' .. string.gsub(lane, ':interactive$', '')), state, by)
  if state ~= 'queued' then return end
  local left = redis.call('HINCRBY', of_shard('backlog'), lane, by)
  if left <= 0 then
    redis.call('HDEL', of_shard('backlog'), lane)
    redis.call('HDEL', of_shard('backlog_since'), lane)
  elseif left == by then
    redis.call('HSET', of_shard('backlog_since'), lane, now)
  end
end
