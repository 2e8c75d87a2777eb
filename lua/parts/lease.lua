-- Leases: who drives an engine, and what its GPU holds. Expects: leases, the key.
local VERSION = 'version' -- the field beside the engines: raised when somebody holds a model more or less

-- nil for what is no lease: anybody can write there.
local function read_lease(text)
  local ok, lease = pcall(cjson.decode, text)
  local right = ok and type(lease) == 'table' and type(lease.models) == 'table' and type(lease.expires_at) == 'number'
  return right and lease or nil
end

local function read_version(text)
  local version = tonumber(text or '')
  return version and version >= 0 and version < 2 ^ 53 and version % 1 == 0 and version or 0
end

local function raise_version(version)
  redis.call('HSET', leases, VERSION, version + 1)
  return version + 1
end
