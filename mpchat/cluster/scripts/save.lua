-- Make uploaded parts the snapshot, if it is newer, and trim the log.
-- KEYS: snapshot, parts and the upload follow those of all scripts.
-- ARGV: generation, position, parts, payload bytes and batches kept at most, then the snapshot's fields.
local SNAPSHOT, PARTS, UPLOAD = KEYS[8], KEYS[9], KEYS[10]
local position = tonumber(ARGV[2])
local head = redis.call('HMGET', HEAD, 'generation', 'position', 'total', 'trimmed', 'trimmed_total')
local kept = redis.call('HGET', SNAPSHOT, 'position')
if head[1] ~= ARGV[1] or tonumber(head[2]) < position or (kept and tonumber(kept) >= position)
  or redis.call('LLEN', UPLOAD) ~= tonumber(ARGV[3]) then
  redis.call('UNLINK', UPLOAD)
  return {'ok'}
end

local last, trimmed = tonumber(head[2]), tonumber(head[4])

-- The description of the batch at a position that is kept.
local function described(at)
  return redis.call('XRANGE', LOG, text(at) .. '-0', text(at) .. '-0')[1][2][2]
end

local function total_at(at)
  if at == trimmed then
    return tonumber(head[5])
  end
  return tonumber(string.match(described(at), '^%S+ %S+ %S+ %S+ %S+ (%S+)'))
end

-- The first batch behind which the payloads are few enough. Positions have no gap, so halving finds it.
local bound = math.max(trimmed, last - tonumber(ARGV[5]))
local limit = tonumber(head[3]) - tonumber(ARGV[4])
local high = last
while bound < high do
  local middle = math.floor((bound + high) / 2)
  if total_at(middle) < limit then
    bound = middle + 1
  else
    high = middle
  end
end
local slowest = redis.call('ZRANGE', POSITIONS, 0, 0, 'WITHSCORES')[2]
-- What follows the snapshot is never trimmed: hosts that start need it. And what follows the snapshot before it
-- is kept for hosts that return after a short while.
local needed = math.min(tonumber(slowest or position), tonumber(kept or 0))
local target = math.min(position, math.max(bound, needed))
local chain, total
if target > trimmed then
  chain, total = string.match(described(target), '%S+$'), total_at(target)
end

redis.call('UNLINK', PARTS, SNAPSHOT)
if ARGV[3] ~= '0' then
  redis.call('RENAME', UPLOAD, PARTS)
  redis.call('PERSIST', PARTS)
end
redis.call('HSET', SNAPSHOT, unpack(ARGV, 6))
if chain then
  redis.call('HSET', HEAD, 'trimmed', text(target), 'trimmed_chain', chain, 'trimmed_total', text(total))
  redis.call('XTRIM', LOG, 'MINID', text(target + 1) .. '-0')
end
return {'ok'}
