-- Give a host a new epoch and start its lease.
-- ARGV: generation, name, instance, version, info, lease (milliseconds), owner.
local name, instance, version = ARGV[2], ARGV[3], tonumber(ARGV[4])
local log, refusal = end_of_log(ARGV[1], tonumber(ARGV[6]))
if not log then
  return refusal
end
local leaving, is_over = expired(log), {}
for _, epoch in ipairs(leaving) do
  is_over[epoch] = true
end
local hosts = redis.call('HGETALL', HOSTS)
for i = 1, #hosts, 2 do
  local epoch, host = hosts[i], cjson.decode(hosts[i + 1])
  if not is_over[epoch] then
    if host.name == name and host.instance == instance then
      -- The same machine's own predecessor, which died without a word.
      leaving[#leaving + 1] = epoch
    elseif host.name == name then
      refusal = {'named', text(tonumber(redis.call('ZSCORE', LEASES, epoch)) - log.time)}
    elseif math.abs(host.version - version) > 1 then
      refusal = refusal or {'version', host.name, host.version}
    end
  end
end
if refusal then
  -- Only the clock goes on: with no other host alive, this host's tries alone bring the other's lease to its end.
  keep(log)
  return refusal
end

bury(log, leaving)
local epoch = text(tonumber(redis.call('HGET', HEAD, 'epoch')) + 1)
add(log, 'arrived', epoch, '0', ARGV[4], ARGV[5])
redis.call('HSET', HEAD, 'epoch', epoch)
redis.call('HSET', HOSTS, epoch, cjson.encode({name = name, instance = instance, version = version, owner = ARGV[7]}))
redis.call('HSET', NUMBERS, epoch, '0')
redis.call('ZADD', LEASES, text(log.time + tonumber(ARGV[6])), epoch)
redis.call('ZADD', POSITIONS, text(log.position), epoch)
keep(log)
return {'ok', tonumber(epoch), log.position}
