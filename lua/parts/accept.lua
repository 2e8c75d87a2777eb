-- Whether an outcome counts. Expects: parts/run, parts/token; token, attempt ('' if the signal did not say).
local ROUTABLE = {running = true, queued = true, deciding = true} -- queued: an outside worker answered without a claim

-- A queued token's last attempt is over: what is said of it once more came late.
local function is_current(entry)
  if attempt == '' then return true end
  if entry.state == 'queued' and entry.attempt > 0 then return false end
  return tonumber(attempt) == entry.attempt
end

-- The run and the token's record; or nil, nil and the answer that says why the outcome changes nothing.
local function accept(digest)
  local run = load_run()
  if not run then ignore('unknown') return nil, nil, {'unknown'} end
  if not is_live(run) then ignore('over') return nil, nil, {'over', run.status} end
  local entry = get_token(token)
  if not entry or not ROUTABLE[entry.state] or not is_current(entry) then
    ignore('duplicate')
    return nil, nil, {'duplicate'}
  end
  if digest ~= run.digest then return nil, nil, {'stale', run.digest} end
  return run, entry
end
