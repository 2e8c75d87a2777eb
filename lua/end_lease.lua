-- end_lease: a runner leaves an engine: its lease goes, unless another runner has it by now.
--
-- KEYS    leases
-- ARGV    engine runner
-- ANSWER  {ended} | {none} (it had no lease of it)
--@include parts/lease

local text, version = unpack(redis.call('HMGET', leases, engine, VERSION))
local lease = read_lease(text or '')
if not lease or lease.runner ~= runner then return {'none'} end
redis.call('HDEL', leases, engine)
raise_version(read_version(version))
return {'ended'}
