"""The scripts that count the uses of exact leases in the store: each runs there as one step, beside no other.

A store may lose what it was told: it restarts from an old file, or a follower takes over that lags. Either way another
server process answers, and its `run_id` shows it. Uses are given again only when every replica that has ever taken one
has told what it took, which it knows from its own disk; the greater number counts.
"""

from __future__ import annotations

from typing import Final

_KNOWN: Final = """
local function run_id()
  return string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
end
local function now()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end
"""

JOIN: Final = (
    _KNOWN
    + """
-- KEYS: ledger, members, waiting, then the uses of each rule in ARGV.
-- ARGV: replica, generation it knows ('' for none), a new generation, milliseconds to settle, uses of each rule.
local me, known = ARGV[1], ARGV[2]
local generation = redis.call('HGET', KEYS[1], 'generation')
if not generation then
  if known ~= '' then return {'lost', '', ''} end
  generation = ARGV[3]
  redis.call('DEL', KEYS[2], KEYS[3])
  redis.call('HSET', KEYS[1], 'generation', generation, 'run', run_id(), 'settled', now() + ARGV[4], 'resume', '')
elseif known ~= '' and known ~= generation then
  -- Somebody began anew while a replica is there that knows of an older count.
  redis.call('HSET', KEYS[1], 'disputed', me)
  return {'disputed', generation, redis.call('HGET', KEYS[1], 'resume') or ''}
end
if redis.call('HGET', KEYS[1], 'run') ~= run_id() then
  redis.call('HSET', KEYS[1], 'run', run_id())
  redis.call('DEL', KEYS[3])
  redis.call('SUNIONSTORE', KEYS[3], KEYS[2])
end
for i = 4, #KEYS do
  local told, kept = tonumber(ARGV[i + 1]), tonumber(redis.call('HGET', KEYS[i], me) or 0)
  if told > kept then redis.call('HSET', KEYS[i], me, told) end
end
redis.call('SADD', KEYS[2], me)
redis.call('SREM', KEYS[3], me)
return {'joined', generation, redis.call('HGET', KEYS[1], 'resume') or ''}
"""
)

TAKE: Final = (
    _KNOWN
    + """
-- KEYS: ledger, members, waiting, the uses of the rule. ARGV: replica, generation it knows, uses there are.
local ledger = redis.call('HMGET', KEYS[1], 'generation', 'run', 'settled', 'disputed')
if not ledger[1] then return {'lost', ''} end
if ledger[1] ~= ARGV[2] then return {'changed', ''} end
if ledger[4] then return {'disputed', ledger[4]} end
if ledger[2] ~= run_id() or redis.call('SISMEMBER', KEYS[2], ARGV[1]) == 0 then return {'restarted', ''} end
if redis.call('SCARD', KEYS[3]) > 0 then
  local names = redis.call('SMEMBERS', KEYS[3])
  table.sort(names)
  return {'waiting', table.concat(names, ', ')}
end
local wait = ledger[3] - now()
if wait > 0 then return {'settling', tostring(math.ceil(wait / 1000))} end
local total = 0
for _, count in ipairs(redis.call('HVALS', KEYS[4])) do total = total + count end
if total >= tonumber(ARGV[3]) then return {'used_up', tostring(total)} end
redis.call('HINCRBY', KEYS[4], ARGV[1], 1)
return {'taken', tostring(total + 1)}
"""
)

LEAVE: Final = """
-- KEYS: members, waiting. ARGV: replica. What it took stays counted.
redis.call('SREM', KEYS[1], ARGV[1])
redis.call('SREM', KEYS[2], ARGV[1])
return 1
"""

RESUME: Final = (
    _KNOWN
    + """
-- KEYS: ledger, members, waiting. ARGV: generation before ('' for none), the new one, its signed word, ms to settle.
local generation = redis.call('HGET', KEYS[1], 'generation') or ''
if generation ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
redis.call('HSET', KEYS[1], 'generation', ARGV[2], 'run', run_id(), 'settled', now() + ARGV[4], 'resume', ARGV[3])
return 1
"""
)
