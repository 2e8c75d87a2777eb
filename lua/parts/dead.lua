-- A token whose work failed for good, with nothing to take over. Expects: parts/token, parts/accept.
ROUTABLE.mapping = true -- a map that cannot start its items

-- dead: kept, so that a retry restores it.
local function bury(run, token, record)
  count(run, record.node, 'failed', 1)
  withdraw(run, record)
  drop_attempt(token, record)
  record.state, record.since, record.runner = 'dead', now, nil
  put_token(token, record)
end
