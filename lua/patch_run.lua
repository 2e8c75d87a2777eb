-- patch_run: a run goes over to another revision of its workflow, at one moment between two steps.
--
-- Refuses where live tokens stand in the way; then queued tasks move to their new streams, the counters of what waits
-- are made anew, and what waits for nothing any more goes on. Items of maps follow slice by slice (adopt_items), and
-- before their next step.
--
-- KEYS    run
-- ARGV    prefix run_id now revision digest ir change places dry body
--         revision: the one that the patch was made on
--         digest, ir: the new IR
--         change: JSON {gone, retyped, redefined: {node: true}, loops: [gone], inside, cancel, restart, unranked, all_loops,
--         streams, mark?, author?}; inside: something in a map is gone or retyped; mark: the batch patch that it belongs to;
--         author: [token, attempt] of the agent that asks
--         places: JSON of the nodes outside of maps (schemas/plan.py, `places`)
--         dry: '1' to say only what would happen
--         body: JSON of the event
-- ANSWER  {patched, status, view} | {stale, revision} | {adopting} (items still follow the patch before)
--         | {live_tokens, tokens} | {retyped, tokens} | {too_many} (items, to look at all)
--         | {already, revision} (this batch patch made that) | {fenced} (the author's attempt was given up)
--         | {over, status} | {unknown}
--         view: JSON {nodes: {node: {state: count}}, open: {map: true} (items are still to start), whole}, as it was
--         tokens: JSON [[token, node, state], ...], those that stand in the way
-- EVENT   run_patched; run_completed if nothing is left
--@include parts/keys parts/run parts/event parts/token parts/scope parts/emit parts/map parts/expire parts/close parts/adopt

local SCOPES = 1000 -- items that are looked at
local SHOWN = 100
local change_json, change = change, cjson.decode(change)
local run = load_run('revision', 'loops')
if not run then return {'unknown'} end
if not is_live(run) then return {'over', run.status} end
local mark, marked = string.match(change.mark and redis.call('HGET', of_run('run'), 'batch_patch') or '', '^(%S+) (%d+)')
if mark and mark == change.mark then return {'already', marked} end
local author = change.author and get_token(change.author[1])
if change.author and not (author and author.state == 'running' and author.attempt == change.author[2]) then
  return {'fenced'}
end
if run.more[1] ~= revision then return {'stale', run.more[1]} end
if run.adopting then return {'adopting'} end

local view = {nodes = {}, open = {}, whole = true}
local hindered = {live_tokens = {}, retyped = {}}

local function hinder(kind, token, record)
  local list = hindered[kind]
  if #list < SHOWN then list[#list + 1] = {token, record.node, record.state} end
end

local function look_at(token, record)
  local states = view.nodes[record.node] or {}
  view.nodes[record.node] = states
  local state = is_mapping(record) and 'mapping' or state_of(record)
  states[state] = (states[state] or 0) + 1
  if change.gone[record.node] and not change.cancel then hinder('live_tokens', token, record) end
  if change.retyped[record.node] and is_started(record) and (is_mapping(record) or not change.restart) then
    hinder('retyped', token, record)
  end
end

-- Every live token, those of the first SCOPES items included.
local function look_into(scope, left)
  each_token(scope, function(token, record)
    look_at(token, record)
    if not record.map then return end
    local counts = map_counts(token)
    if (counts[1] or 0) < (counts[2] or 0) then view.open[record.node] = true end
    left = left - redis.call('SCARD', of_token('items', token)) - redis.call('SCARD', of_token('held', token))
    if left < 0 then view.whole = false return end
    for _, index in ipairs(redis.call('SUNION', of_token('items', token), of_token('held', token))) do
      left = look_into(path_of(token) .. '-' .. index, left)
      if left < 0 then return end
    end
  end)
  return left
end

look_into('', SCOPES)
for _, kind in ipairs({'live_tokens', 'retyped'}) do
  if #hindered[kind] > 0 then return {kind, cjson.encode(hindered[kind])} end
end
if change.inside and not view.whole then return {'too_many'} end
if dry == '1' then return {'patched', run.status, cjson.encode(view)} end

-- Of all revisions: items that are still swept away may have counts of a loop that went with an earlier one.
local loops = run.more[2] or ''
for loop in string.gmatch(change.all_loops, '%S+') do
  if not string.find(' ' .. loops .. ' ', ' ' .. loop .. ' ', 1, true) then loops = loops .. ' ' .. loop end
end

if change.mark then -- schemas/batch_mark.py
  redis.call('HSET', of_run('run'), 'batch_patch', change.mark .. ' ' .. tonumber(revision) + 1 .. ' ' .. run.digest)
end
run.digest = digest
redis.call('HSET', of_run('run'), 'digest', digest, 'revision', tonumber(revision) + 1, 'loops', loops)
redis.call('RENAMENX', of_run('ir'), of_run('first_ir')) -- all later ones follow from the first and the events
redis.call('SET', of_run('ir'), ir)
for _, stream in ipairs(change.streams) do
  redis.call('SADD', of_shard('streams'), stream)
  if run.priority == 'interactive' then redis.call('SADD', of_shard('streams'), stream .. ':interactive') end
end
local alive, gone = adopt_scope(run, '', cjson.decode(places), change)
if redis.call('EXISTS', of_run('adopting')) == 1 then
  redis.call('HSET', of_run('run'), 'adopting', change_json)
end
write_event(run, 'run_patched', '', '', '', body, applied_json(run, #gone > 0 and gone or nil))
if not alive then
  close_run(run, 'COMPLETED', '')
else
  save_run(run)
end
return {'patched', run.status, cjson.encode(view)}
