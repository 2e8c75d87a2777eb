-- start_map: a map knows its items (deciding -> mapping); their start is asked for.
--
-- KEYS    run
-- ARGV    prefix run_id now token node attempt digest items total parallel body artifact bytes
--         items: stored text of the whole list; artifact, bytes: what it refers to, '' for none
--         parallel: items at once
--         body: JSON of the event
-- ANSWER  {mapping} | {later} | {stale, digest} | {unadopted} | {duplicate} | {over, status} | {unknown}
-- EVENT   map_started
--@include parts/keys parts/run parts/event parts/token parts/scope parts/accept

local run, record, refused = accept(digest, node)
if refused then return refused end
if record.state ~= 'deciding' or record.map then ignore('duplicate') return {'duplicate'} end
if redis.call('EXISTS', of_token('items', token), of_token('held', token)) > 0 then
  return {'later'} -- of a map that it was before a patch: they are swept first, and a timer asks again
end

drop_attempt(token, record)
record.state, record.since, record.map = 'mapping', now, true
redis.call('HSET', of_token('map', token), 'total', total, 'cursor', 0, 'running', 0, 'done', 0, 'parallel', parallel,
  'items', items)
if artifact ~= '' then redis.call('HSET', of_run('artifacts'), artifact, bytes) end
put_token(token, record)
ask(run, token, record)
write_event(run, 'map_started', node, token, scope_of(token), body, applied_json(run))
save_run(run)
return {'mapping'}
