-- lease_models: a runner says what its GPU holds, claims what it switches to, and sees what waits, in one step.
--
-- KEYS    leases
-- ARGV    prefix now engine runner lease version ttl_ms residents served
--         engine: whoever holds a lease of it drives it alone
--         lease: JSON {runner, gpu, kind, models: {pool: rate}}: all that it holds, loads or is about to load
--         version: of the leases that a claim was decided on; '' to renew, or to hold less
--         residents: its pools whose tasks it takes, separated by spaces
--         served: pools that it took tasks of since its last call, likewise
-- ANSWER  {held, version, leases, backlog, since, served, residents}
--         | {stale, ...} (the leases have changed since: it has what it had, and decides again)
--         | {taken, version, leases} (another runner drives this engine; nothing is written)
--         leases: engine, JSON, ...
--         backlog, since, served: the hashes backlog, backlog_since and served
--         residents: lane, entries that no runner was given, id of the first of them, ...
--@include parts/lease

local LONGEST_MS = 3600000 -- a lease that ends later was written under another clock
local NAMES, LONG_MS = 200, 3600000 -- pools that are kept in any case; the others so long after they were served
local LANES = 1000 -- that one look goes through: of more, any
local TASKS = prefix .. 'wf.tasks.agent.'

local texts, ended, mine, current = {}, {}, nil, 0
local all = redis.call('HGETALL', leases)
for i = 1, #all, 2 do
  local name, text = all[i], all[i + 1]
  local one = name ~= VERSION and read_lease(text)
  if name == VERSION then
    current = read_version(text)
  elseif one and name == engine and one.runner == runner then -- though it may have ended: nobody has noticed
    texts[name], mine = text, one
  elseif one and one.expires_at >= now and one.expires_at <= now + LONGEST_MS then
    texts[name] = text
  elseif one then
    ended[#ended + 1] = name
  end
end

local function listed()
  local flat = {}
  for name, text in pairs(texts) do
    flat[#flat + 1] = name
    flat[#flat + 1] = text
  end
  return flat
end

if texts[engine] and not mine then return {'taken', current, listed()} end

local function has_more(models, others)
  for pool in pairs(models) do
    if others[pool] == nil then return true end
  end
  return false
end

local function write(text)
  texts[engine] = text
  redis.call('HSET', leases, engine, text)
end

for _, name in ipairs(ended) do redis.call('HDEL', leases, name) end
if #ended > 0 then current = raise_version(current) end
local stale = version ~= '' and tonumber(version) ~= current
local expiry = '"expires_at":' .. now + tonumber(ttl_ms)
if not stale then
  local before, after = mine and mine.models or {}, cjson.decode(lease).models
  if has_more(before, after) or has_more(after, before) then current = raise_version(current) end
  write('{' .. expiry .. ',' .. string.sub(lease, 2))
elseif mine then
  write((string.gsub(texts[engine], '"expires_at":%d+', expiry, 1)))
end
for pool in string.gmatch(served, '%S+') do redis.call('HSET', prefix .. 'served', pool, now) end

-- What is queued lies on its stream: a count of what is not there is wrong, whoever wrote it.
local backlog = redis.call('HRANDFIELD', prefix .. 'backlog', LANES, 'WITHVALUES') or {}
for i = 1, #backlog, 2 do
  if redis.call('XLEN', TASKS .. backlog[i]) == 0 then
    redis.call('HDEL', prefix .. 'backlog', backlog[i])
    redis.call('HDEL', prefix .. 'backlog_since', backlog[i])
    backlog[i + 1] = 0
  end
end

-- Names that nobody has used for long go, so that a look does not grow with every name that ever was.
local served_at = redis.call('HGETALL', prefix .. 'served')
if #served_at > 2 * NAMES then
  for i = 1, #served_at, 2 do
    if now - (tonumber(served_at[i + 1]) or 0) > LONG_MS then redis.call('HDEL', prefix .. 'served', served_at[i]) end
  end
end

-- How many entries runners have, and the id up to which they were given.
local function delivered(stream)
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local of = {}
    for i = 1, #group, 2 do of[group[i]] = group[i + 1] end
    if of.name == 'runners' then return of.pending, of['last-delivered-id'] end
  end
  return 0, '0-0'
end

-- Exact, since what is acknowledged is deleted in the same step.
local undelivered = {}
local function look_at(lane)
  local entries = redis.call('XLEN', TASKS .. lane)
  if entries == 0 then return end
  local pending, last = delivered(TASKS .. lane)
  local first = redis.call('XRANGE', TASKS .. lane, '(' .. last, '+', 'COUNT', 1)[1]
  if not first then return end
  local n = #undelivered
  undelivered[n + 1], undelivered[n + 2], undelivered[n + 3] = lane, math.max(entries - pending, 1), first[1]
end
for pool in string.gmatch(residents, '%S+') do
  look_at(pool)
  look_at(pool .. ':interactive')
end

return {stale and 'stale' or 'held', current, listed(), backlog, redis.call('HGETALL', prefix .. 'backlog_since'),
  served_at, undelivered}
