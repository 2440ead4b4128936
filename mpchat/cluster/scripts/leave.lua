-- End a host's own lease. ARGV: generation, epoch, owner.
local log, refusal = end_of_log(ARGV[1], 0)
if not log then
  return refusal
end
if redis.call('ZSCORE', LEASES, ARGV[2]) and owns(ARGV[2], ARGV[3]) then
  bury(log, {ARGV[2]})
  keep(log)
end
return {'ok'}
