-- Scopes: where a token lives, the run itself ('') or an item of a map. Expects: parts/token.
local LOOP_NAMES -- of the run, read once

-- The token of the map that a scope is an item of, and the item's index.
local function map_of(scope)
  local path, index = string.match(scope, '^(.*)%-(%d+)$')
  return run_id .. '.' .. path, index
end

-- Whether an item and all that encloses it goes on: ending a map is one write. `failing`: or it has failed, and may
-- be retried.
local function is_scope_live(scope, failing)
  while scope ~= '' do
    if redis.call('EXISTS', in_scope('scope', scope)) == 0 then return false end
    local map = map_of(scope)
    local record = get_token(map)
    if not record or (record.state ~= 'mapping' and not failing) then return false end
    scope = scope_of(map)
  end
  return true
end

-- Whether a token whose timer is due lies in an item that does not go on, and is not held yet (sweep_map). Its run may be
-- retried first, and then it goes on as if nothing had been: so what is due waits. Expects: attempt, the timer's.
local function is_in_limbo(run, token, record)
  if not record or record.attempt ~= tonumber(attempt) or record.state == 'held' or record.state == 'dead' then
    return false
  end
  return run.status == 'FAILED' or (is_live(run) and not is_scope_live(scope_of(token)))
end

-- Whether a scope has gone over to the run's graph: after a patch the items of maps follow one by one (adopt_items).
local function is_adopted(run, scope)
  if not run.adopting or scope == '' then return true end
  return redis.call('HGET', in_scope('scope', scope), 'adopted') == run.digest
end

-- Whether a patch that the token's item has yet to follow ends what the token has begun: no outcome of it counts.
local function is_outdated(run, token, record)
  if is_adopted(run, scope_of(token)) then return false end
  local change, node = cjson.decode(run.adopting), record.node
  local begun = record.state ~= 'queued' and record.state ~= 'delayed'
  return change.gone[node] or (begun and (change.retyped[node] or change.redefined[node]))
end

local function put_off(kind, token, record)
  set_timer(kind, token, record, now + 1000)
  return {'waiting'}
end

local SCOPE_KEYS = {'scope', 'tokens', 'context', 'ranks', 'ends', 'waiting', 'pending', 'arrivals', 'outcomes'}

-- The names of all keys of a scope.
local function scope_keys(scope)
  local names = {}
  for i, kind in ipairs(SCOPE_KEYS) do names[i] = in_scope(kind, scope) end
  LOOP_NAMES = LOOP_NAMES or redis.call('HGET', of_run('run'), 'loops') or ''
  for node in string.gmatch(LOOP_NAMES, '%S+') do names[#names + 1] = loop_key(node, scope) end
  return names
end

local function each_token(scope, visit)
  local all = redis.call('HGETALL', in_scope('tokens', scope))
  for i = 1, #all, 2 do visit(all[i], cjson.decode(all[i + 1])) end
end
