-- advance: move a run on from one token whose work is done.
--
-- Checks that the run is live, the token is live, the attempt is the current one and the IR is the one decided on;
-- then consumes the token, records outputs, counts passes, emits the next tokens, releases what waited, acknowledges
-- the task, writes the event, and looks last whether anything is left.
--
-- KEYS    run
-- ARGV    prefix run_id now token node attempt plan body
--         attempt: the one that the outcome belongs to, '' if the signal did not say
--         plan: JSON, schemas/plan.py; its value indexes point at the further ARGV
--         body: JSON of the event, passed through
-- ANSWER  {advanced, live} | {ended, status} | {stale, digest} | {unadopted} | {duplicate} | {over, status} | {unknown}
-- EVENT   node_completed, or node_failed where on_error takes over; item_completed at the end of a map's item,
--         run_completed at the end
--@include parts/keys parts/run parts/event parts/token parts/scope parts/accept parts/emit parts/map parts/item parts/expire parts/close

local plan = cjson.decode(plan)
local run, record, refused = accept(plan.digest, node)
if refused then return refused end
if plan.scope ~= scope_of(token) then ignore('duplicate') return {'duplicate'} end -- decided on a record that is none
for loop, passes in pairs(plan.found or {}) do -- counted by another token meanwhile: decided again
  if tonumber(redis.call('HGET', loop_key(loop, plan.scope), 'current_iteration') or 0) ~= passes then
    return {'stale', run.digest}
  end
end

-- Where executions overlap, a node's output is that of the highest execution (depth, lane) that gave one, and whether it
-- emitted anything that of the highest of all: two ranks, since an execution that failed gives no output.
local function is_newest(output, of)
  if not plan.ranked then return true end
  local ranks, rank = in_scope('ranks', plan.scope), string.format('%08d%s', output.rank[1], output.rank[2])
  local known = redis.call('HGET', ranks, of .. output.node)
  if known and known > rank then return false end
  redis.call('HSET', ranks, of .. output.node, rank)
  return true
end

local function record_outputs()
  for _, output in ipairs(plan.outputs) do
    if output.value and is_newest(output, '') then
      redis.call('HSET', in_scope('context', plan.scope), output.node, ARGV[output.value])
    end
    if output.ends ~= nil and is_newest(output, 'ends|') then
      redis.call(output.ends and 'SADD' or 'SREM', in_scope('ends', plan.scope), output.node)
    end
    count(run, output.node, plan.failed and output.node == record.node and 'failed' or 'done', 1)
  end
end

local function count_passes()
  for loop, passes in pairs(plan.passes or {}) do
    redis.call('HSET', loop_key(loop, plan.scope), 'current_iteration', passes)
  end
  for _, loop in ipairs(plan.restarted or {}) do redis.call('DEL', loop_key(loop, plan.scope)) end
end

record_outputs()
count_passes()
for i = 1, #(plan.artifacts or {}) do
  redis.call('HSET', of_run('artifacts'), plan.artifacts[i][1], ARGV[plan.artifacts[i][2]])
end
emit(run, plan)
local alive = consume(run, token, record) -- after the new tokens are in, or the hashes of a run with one token are made anew each hop
write_event(run, plan.failed and 'node_failed' or 'node_completed', record.node, token, plan.scope, body,
  applied_json(run, {token}))
if alive == 0 and plan.scope ~= '' then
  close_item(run, plan.scope, redis.call('HGET', in_scope('context', plan.scope), plan.exit) or 'null')
elseif alive == 0 then
  close_run(run, 'COMPLETED', '')
  return {'ended', run.status}
end
save_run(run)
return {'advanced', run.live}
