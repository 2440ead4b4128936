-- State where a host is in a log that was lost.
-- ARGV: generation that was lost, position, name, milliseconds to wait for others, until a host that does
-- not state again is forgotten, and the chain at the position.
-- 'found' is followed by the position and the chain of each other host that is there.
local generation = redis.call('HGET', HEAD, 'generation')
if generation and generation ~= ARGV[1] then
  return {'again'}
end
local now, position, name = milliseconds(), tonumber(ARGV[2]), ARGV[3]
local stand = redis.call('HGETALL', STAND)
local since, first, found = now, true, {'found'}
for i = 1, #stand, 2 do
  if stand[i] == 'since' then
    since = math.min(now, tonumber(stand[i + 1]))
  else
    local other, at, seen, chain = string.sub(stand[i], 6), string.match(stand[i + 1], '^(%d+) (%d+) (.*)$')
    at, seen = tonumber(at), tonumber(seen)
    if other ~= name and now - seen <= tonumber(ARGV[5]) then
      first = first and (at < position or (at == position and other > name))
      found[#found + 1] = text(at)
      found[#found + 1] = chain
    end
  end
end

local stated = table.concat({ARGV[2], text(now), ARGV[6]}, ' ')
redis.call('HSET', STAND, 'since', text(since), 'host:' .. name, stated)
redis.call('PEXPIRE', STAND, ARGV[5])
if first and now - since >= tonumber(ARGV[4]) then
  return found
end
return {'wait'}
