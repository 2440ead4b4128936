-- Append batches of one host and renew its lease.
-- ARGV: generation, epoch, position, lease (milliseconds), owner, then number, version and payload of each
-- batch.
local epoch, position = ARGV[2], tonumber(ARGV[3])
local log, refusal = end_of_log(ARGV[1], tonumber(ARGV[4]))
if not log then
  return refusal
end
if log.position < position then
  return {'rewound', 'behind', text(log.position)}
end
if not owns(epoch, ARGV[5]) then
  return {'rewound', 'owner'}
end
-- It was registered in what the log has lost: no end of it will ever come.
if tonumber(epoch) > tonumber(redis.call('HGET', HEAD, 'epoch')) then
  return {'rewound', 'unknown'}
end
local lease = redis.call('ZSCORE', LEASES, epoch)
local over = expired(log)
if not lease or tonumber(lease) <= log.time then
  if #over > 0 then
    bury(log, over)
    keep(log)
  end
  return {'fenced'}
end
local last = tonumber(redis.call('HGET', NUMBERS, epoch) or 0)
local next_number = last + 1
for i = 6, #ARGV, 3 do
  local number = tonumber(ARGV[i])
  if number > next_number then
    return {'rewound', 'gap', text(next_number), ARGV[i]}
  end
  next_number = math.max(next_number, number + 1)
end

bury(log, over)
local positions = {}
for i = 6, #ARGV, 3 do
  local number = tonumber(ARGV[i])
  if number > last then
    add(log, 'batch', epoch, ARGV[i], ARGV[i + 1], ARGV[i + 2])
    last = number
    positions[#positions + 1] = log.position
  else
    positions[#positions + 1] = 0
  end
end
redis.call('HSET', NUMBERS, epoch, text(last))
redis.call('ZADD', LEASES, text(log.time + tonumber(ARGV[4])), epoch)
redis.call('ZADD', POSITIONS, ARGV[3], epoch)
keep(log)
return {'ok', positions}
