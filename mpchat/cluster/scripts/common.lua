-- What all scripts share: it is put before each of them.
--
-- While the statements of hosts about a lost log (STAND) are there, nothing is appended: all hosts state where
-- they are, and the one that has got furthest begins the new log.
--
-- Head (a hash): format, generation; position, chain and total of the last batch; time (the log's clock) and
-- seen (Redis's clock at the last change), both in milliseconds; epoch, the last that was given; trimmed, with
-- trimmed_chain and trimmed_total: the last batch that is not kept any more.
-- A batch is in the stream under the id POSITION-0: m is its description, p its payload.
--
-- A script checks everything before its first write, because Redis takes no write back. Its first write is one
-- that Redis refuses when it is out of memory: later ones in the same script are never refused.

local HEAD, LOG, HOSTS, LEASES, NUMBERS, POSITIONS = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local STAND = KEYS[7]

-- Milliseconds that the log's clock goes on at most between two changes, and never more than half a lease:
-- hosts append at least four times in a lease. A longer time is one in which no host could reach Redis, or
-- Redis's clock was set.
local LONGEST_STEP = 2000
local LEASES_IN_A_STEP = 0.5

-- Before Redis 7 a script that has asked for the time may write only then.
if redis.replicate_commands then
  redis.replicate_commands()
end

-- A number of up to 2^53 as text; tostring would round it.
local function text(number)
  return string.format('%.0f', number)
end

local function milliseconds()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- The end of the log with the clock set forward, or nil and what to return. `lease` is in milliseconds.
local function end_of_log(generation, lease)
  local head = redis.call('HMGET', HEAD, 'generation', 'position', 'chain', 'total', 'time', 'seen')
  if not head[1] then
    return nil, {'rewound', 'empty'}
  end
  if head[1] ~= generation then
    return nil, {'rewound', 'another'}
  end
  if redis.call('EXISTS', STAND) == 1 then
    return nil, {'rewound', 'lost'}
  end
  local now = milliseconds()
  local longest = math.min(LONGEST_STEP, math.floor(lease * LEASES_IN_A_STEP))
  local step = math.max(0, math.min(longest, now - tonumber(head[6])))
  return {
    position = tonumber(head[2]), chain = head[3], total = tonumber(head[4]),
    time = tonumber(head[5]) + step, now = now,
  }
end

-- Keep how far the log and its clock are; last of all.
local function keep(log)
  redis.call('HSET', HEAD, 'position', text(log.position), 'chain', log.chain, 'total', text(log.total),
    'time', text(log.time), 'seen', text(log.now))
end

-- Append one batch; all numbers are given as text.
local function add(log, kind, epoch, number, version, payload)
  local time = text(log.time)
  log.position = log.position + 1
  log.total = log.total + #payload
  log.chain = redis.sha1hex(log.chain .. epoch .. ':' .. number .. ':' .. time .. ':' .. kind)
  local description = table.concat(
    {kind, epoch, number, time, text(log.now), text(log.total), version, log.chain}, ' ')
  redis.call('XADD', LOG, text(log.position) .. '-0', 'm', description, 'p', payload)
end

-- True if the host of an epoch is the one that registered with this text: a log that was rolled back may have
-- given the epoch to another one.
local function owns(epoch, owner)
  local host = redis.call('HGET', HOSTS, epoch)
  return not host or cjson.decode(host).owner == owner
end

-- Host epochs whose lease is over.
local function expired(log)
  return redis.call('ZRANGEBYSCORE', LEASES, '-inf', text(log.time))
end

-- Append that these host epochs are gone, and forget them.
local function bury(log, epochs)
  for _, epoch in ipairs(epochs) do
    add(log, 'gone', epoch, '0', '0', '')
    redis.call('ZREM', LEASES, epoch)
    redis.call('ZREM', POSITIONS, epoch)
    redis.call('HDEL', NUMBERS, epoch)
    redis.call('HDEL', HOSTS, epoch)
  end
end
