-- Names of keys, as schemas/keys.py has them. Expects: prefix, run_id.
-- All keys of a shard share one slot (docs/decisions/keys.md), so names are derived here and not passed in.
local function of_run(kind) return prefix .. kind .. ':' .. run_id end

local function in_scope(kind, scope)
  if scope == '' then return of_run(kind) end
  return of_run(kind) .. '/' .. scope
end

local function loop_key(node, scope) return in_scope('loop', scope) .. ':' .. node end

local function of_shard(name) return prefix .. name end
