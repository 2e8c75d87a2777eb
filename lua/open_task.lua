-- open_task: a node that ends later begins to wait (deciding -> asked, timed, listening or calling).
--
-- KEYS    run
-- ARGV    prefix run_id now token node attempt digest state fields approval body
--         fields: JSON of what its record gets: due (ms), remind_ms, event and key, child
--         approval: JSON for the list of what waits for people, '' for none
--         body: JSON of the event
-- ANSWER  {opened} | {stale, digest} | {unadopted} | {duplicate} | {over, status} | {unknown}
-- EVENT   node_opened
--@include parts/keys parts/run parts/event parts/token parts/scope parts/accept

local run, record, refused = accept(digest, node)
if refused then
  if state == 'calling' and not get_token(token) then -- it was over before it waited for the child that was started
    redis.call('ZADD', of_shard('timers'), now, 'cancel ' .. cjson.decode(fields).child .. ' - 0')
  end
  return refused
end
if record.state ~= 'deciding' then ignore('duplicate') return {'duplicate'} end

drop_attempt(token, record)
for name, value in pairs(cjson.decode(fields)) do record[name] = value end
record.state, record.since = state, now
record.paused_ms = tonumber(redis.call('HGET', of_run('run'), 'paused_ms') or 0)
if record.due then set_timer(state == 'timed' and 'wait' or 'deadline', token, record, record.due) end
if record.remind_ms then set_timer('remind', token, record, now + record.remind_ms) end
if state == 'asked' then redis.call('HSET', of_shard('approvals'), token, approval) end
if state == 'listening' then redis.call('HSET', of_shard('listeners:' .. record.event), token, record.key) end
put_token(token, record)
if state == 'calling' then ask(run, token, record) end -- its child may have ended by now
write_event(run, 'node_opened', node, token, scope_of(token), body, applied_json(run))
save_run(run)
return {'opened'}
