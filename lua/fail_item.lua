-- fail_item: a task of a map's item failed for good, and its map fails with it.
--
-- The token becomes dead and the map's token gets a failure as its outcome; what follows is decided there: `on_error`
-- of the map, the failure of the item that the map is in, or of the run.
--
-- KEYS    run
-- ARGV    prefix run_id now token node attempt digest signal body
--         signal: the completion signal of the map's token, JSON
--         body: JSON of the event
-- ANSWER  {failed} | {stale, digest} | {unadopted} | {duplicate} | {over, status} | {unknown}
-- EVENT   node_failed
--@include parts/keys parts/run parts/event parts/token parts/scope parts/accept parts/dead

local run, record, refused = accept(digest, node)
if refused then return refused end

bury(run, token, record)
local map, index = map_of(scope_of(token))
redis.call('SADD', of_token('held', map), index) -- a retry restores it, also one that comes before sweep_map
local parent = get_token(map)
drop_attempt(map, parent)
store_answer(map, parent, signal)
write_event(run, 'node_failed', record.node, token, scope_of(token), body, applied_json(run))
save_run(run)
return {'failed'}
