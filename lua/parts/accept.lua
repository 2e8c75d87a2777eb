-- Whether an outcome counts. Expects: parts/run, parts/scope; token, attempt ('' if the signal did not say).
local ROUTABLE = {running = true, queued = true, deciding = true, answered = true, calling = true} -- queued: an outside worker answered without a claim

-- A queued token's last attempt is over: what is said of it once more came late.
local function is_current(record)
  if record.state == 'queued' and record.attempt > 0 then return false end
  if attempt == '' then return true end
  return tonumber(attempt) == record.attempt
end

-- The run and the token's record; or nil, nil and the answer that says why the outcome changes nothing. `node`: where
-- the decision took the token to be.
local function accept(digest, node)
  local run = load_run()
  if not run then ignore('unknown') return nil, nil, {'unknown'} end
  if not is_live(run) then ignore('over') return nil, nil, {'over', run.status} end
  local record = get_token(token)
  if not record or not ROUTABLE[record.state] or not is_current(record) or record.node ~= node then
    ignore('duplicate')
    return nil, nil, {'duplicate'}
  end
  if not is_scope_live(scope_of(token)) then ignore('over') return nil, nil, {'over', run.status} end
  if digest ~= run.digest then return nil, nil, {'stale', run.digest} end
  if not is_adopted(run, scope_of(token)) then return nil, nil, {'unadopted'} end
  return run, record
end
