-- end_item: a task of a map's item failed for good, and the map collects failures: the item ends with it as its result.
--
-- KEYS    run
-- ARGV    prefix run_id now token node attempt digest scope result body
--         scope: of the item that ends, the token's own or one that encloses it
--         result: stored text of the item's result
--         body: JSON of the event
-- ANSWER  {ended, index} | {stale, digest} | {unadopted} | {duplicate} | {over, status} | {unknown}
-- EVENT   node_failed, item_completed
--@include parts/keys parts/run parts/event parts/token parts/scope parts/accept parts/map parts/item

ROUTABLE.mapping = true -- a map that cannot start its items
local run, record, refused = accept(digest, node)
if refused then return refused end

count(run, record.node, 'failed', 1)
local gone = {token}
each_token(scope, function(other, its)
  if other ~= token then gone[#gone + 1] = other end
  consume(run, other, its)
end)
write_event(run, 'node_failed', record.node, token, scope_of(token), body, applied_json(run, gone))
close_item(run, scope, result)
save_run(run)
return {'ended', scope}
