-- Begin a new log with a snapshot.
-- KEYS: snapshot, parts and the upload follow those of all scripts.
-- ARGV: format, generation that is replaced ("": there was none), new generation, position, chain, total,
-- time (milliseconds), parts, then the snapshot's fields.
local SNAPSHOT, PARTS, UPLOAD = KEYS[8], KEYS[9], KEYS[10]
local generation = redis.call('HGET', HEAD, 'generation')
if generation and generation ~= ARGV[2] then
  redis.call('UNLINK', UPLOAD)
  -- The same call before, whose answer was lost?
  return {generation == ARGV[3] and 'ok' or 'late'}
end
-- Hosts that have lost the log will begin it again with all that they know.
if not generation and ARGV[2] == '' and redis.call('EXISTS', STAND) == 1 then
  redis.call('UNLINK', UPLOAD)
  return {'late'}
end
if redis.call('LLEN', UPLOAD) ~= tonumber(ARGV[8]) then
  return {'upload'}
end
local epoch = redis.call('HGET', HEAD, 'epoch') or '0'
local time = math.max(tonumber(ARGV[7]), tonumber(redis.call('HGET', HEAD, 'time') or 0))

redis.call('HSET', HEAD, 'format', ARGV[1], 'generation', ARGV[3], 'position', ARGV[4], 'chain', ARGV[5],
  'total', ARGV[6], 'time', text(time), 'seen', text(milliseconds()), 'epoch', epoch,
  'trimmed', ARGV[4], 'trimmed_chain', ARGV[5], 'trimmed_total', ARGV[6])
redis.call('UNLINK', LOG, HOSTS, LEASES, NUMBERS, POSITIONS, STAND, PARTS, SNAPSHOT)
if ARGV[8] ~= '0' then
  redis.call('RENAME', UPLOAD, PARTS)
  redis.call('PERSIST', PARTS)
end
redis.call('HSET', SNAPSHOT, unpack(ARGV, 9))
return {'ok'}
