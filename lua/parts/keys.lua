-- Names of keys, as schemas/keys.py has them. Expects: prefix, run_id.
-- All keys of a shard share one slot (docs/decisions/keys.md), so names are derived here and not passed in.
local function of_run(kind) return prefix .. kind .. ':' .. run_id end

local function in_scope(kind, scope)
  if scope == '' then return of_run(kind) end
  return of_run(kind) .. '/' .. scope
end

local function loop_key(node, scope) return in_scope('loop', scope) .. ':' .. node end

local function of_shard(name) return prefix .. name end

-- A token's path is its id without the run's; all but the last part of a path is the scope that it lives in.
local function path_of(token) return string.sub(token, #run_id + 2) end

local function scope_of_path(path) return string.match(path, '^(.*)%.[^.]*$') or '' end

local function scope_of(token) return scope_of_path(path_of(token)) end

-- What belongs to one token: the items of a map.
local function of_token(kind, token) return in_scope(kind, path_of(token)) end
