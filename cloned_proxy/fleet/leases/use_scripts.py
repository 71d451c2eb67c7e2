"""The scripts that count the uses of exact leases in the store: each runs there as one step, beside no other.

A store may lose what it was told: it restarts from an old file, or a follower takes over that lags. Then it may have
forgotten even that a replica was there, which may be gone by now, so nobody can show that the count is whole. Hence
a count is of one server process in one replication history: once another one answers, or this one knows of fewer steps
than some replica has seen, no use is given until somebody with a key begins a new count (`resuming`). The first one
begins with the first policy that is published.
"""

from __future__ import annotations

from typing import Final

_KNOWN: Final = """
local function run_id()
  return string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') .. ' '
    .. string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
end
local function now()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end
local function sum(key)
  local all = 0
  for _, count in ipairs(redis.call('HVALS', key)) do all = all + count end
  return all
end
"""

JOIN: Final = (
    _KNOWN
    + """
-- KEYS: ledger, members, then the uses of each rule in ARGV.
-- ARGV: replica, generation that it follows ('' for none), steps it knows, for how long unused counts are kept, the
-- generation that it has seen here, the signed word that it follows ('' for none), then of each rule its id and uses.
-- Answers what became of it, the generation, and the steps.
local me, known = ARGV[1], ARGV[2]
local generation = redis.call('HGET', KEYS[1], 'generation')
if not generation then return {'lost', '', '0'} end
-- One that began since then is not disputed by whoever has not read its word yet.
if generation ~= ARGV[5] then return {'moved', generation, '0'} end
if known ~= generation then
  -- Somebody began anew while a replica is there that knows of an older count.
  if known ~= '' then redis.call('HSET', KEYS[1], 'disputed', me, 'followed', ARGV[6]) end
  return {'disputed', generation, '0'}
end
if redis.call('HGET', KEYS[1], 'run') ~= run_id() then return {'restarted', generation, '0'} end
if tonumber(redis.call('HGET', KEYS[1], 'steps') or 0) < tonumber(ARGV[3]) then
  redis.call('HSET', KEYS[1], 'behind', me)
end
local fields = redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
  local rule = string.match(fields[i], '^asked:(.*)$')
  if rule and now() - fields[i + 1] >= tonumber(ARGV[4]) then
    redis.call('HDEL', KEYS[1], fields[i], 'total:' .. rule)
  end
end
for i = 3, #KEYS do
  local field, told = 'total:' .. ARGV[2 * i + 1], tonumber(ARGV[2 * i + 2])
  local total, all = redis.call('HGET', KEYS[1], field), sum(KEYS[i])
  if total and tonumber(total) ~= all then redis.call('HSET', KEYS[1], 'behind', me) end
  local kept = tonumber(redis.call('HGET', KEYS[i], me) or 0)
  if told > kept then
    redis.call('HSET', KEYS[i], me, told)
    all = all + told - kept
  end
  redis.call('HSET', KEYS[1], field, all, 'asked:' .. ARGV[2 * i + 1], now())
  redis.call('PEXPIRE', KEYS[i], ARGV[4])
end
redis.call('SADD', KEYS[2], me)
return {'joined', generation, tostring(redis.call('HINCRBY', KEYS[1], 'steps', 1))}
"""
)

TAKE: Final = (
    _KNOWN
    + """
-- KEYS: ledger, members, the uses of the rule. ARGV: replica, generation and steps that it knows, uses there are, for
-- how long unused counts are kept, the rule's id, and how many of its uses this replica has taken at least. Answers
-- what became of it, what there is to say, and the steps.
local field, asked = 'total:' .. ARGV[6], 'asked:' .. ARGV[6]
local ledger = redis.call('HMGET', KEYS[1], 'generation', 'run', 'settled', 'disputed', 'behind', 'steps', field, asked)
if not ledger[1] then return {'lost', '', '0'} end
if ledger[1] ~= ARGV[2] then return {'changed', '', '0'} end
if ledger[4] then return {'disputed', ledger[4], '0'} end
if ledger[2] ~= run_id() then return {'restarted', '', '0'} end
if redis.call('SISMEMBER', KEYS[2], ARGV[1]) == 0 then return {'unknown', '', '0'} end
local total = sum(KEYS[3])
-- The hash of a rule may be gone, or set back, while the ledger is there: evicted, or deleted. After its time it is
-- gone by right.
local lasts = not ledger[8] or now() - ledger[8] < tonumber(ARGV[5])
if not ledger[5] and (tonumber(ledger[6] or 0) < tonumber(ARGV[3])
    or (lasts and ledger[7] and tonumber(ledger[7]) ~= total)
    or (lasts and tonumber(redis.call('HGET', KEYS[3], ARGV[1]) or 0) < tonumber(ARGV[7]))) then
  ledger[5] = ARGV[1]
  redis.call('HSET', KEYS[1], 'behind', ARGV[1])
end
if ledger[5] then return {'behind', ledger[5], '0'} end
local wait = ledger[3] - now()
if wait > 0 then return {'settling', tostring(math.ceil(wait / 1000)), '0'} end
redis.call('PEXPIRE', KEYS[3], ARGV[5])
redis.call('HSET', KEYS[1], field, total, asked, now())
if total >= tonumber(ARGV[4]) then return {'used_up', tostring(total), ledger[6]} end
redis.call('HINCRBY', KEYS[3], ARGV[1], 1)
redis.call('HSET', KEYS[1], field, total + 1)
redis.call('PEXPIRE', KEYS[3], ARGV[5])
return {'taken', tostring(total + 1), tostring(redis.call('HINCRBY', KEYS[1], 'steps', 1))}
"""
)

LOOK: Final = (
    _KNOWN
    + """
-- Whether uses are given. KEYS: ledger. Answers as `TAKE` does, and `counted` where nothing is in the way.
local ledger = redis.call('HMGET', KEYS[1], 'generation', 'run', 'disputed', 'behind')
if not ledger[1] then return {'lost', '', '0'} end
if ledger[3] then return {'disputed', ledger[3], '0'} end
if ledger[2] ~= run_id() then return {'restarted', '', '0'} end
if ledger[4] then return {'behind', ledger[4], '0'} end
return {'counted', '', '0'}
"""
)

RESUME: Final = (
    _KNOWN
    + """
-- Begins a count. KEYS: ledger, members.
-- ARGV: generation before ('' for none), the new one, its signed word, milliseconds to settle.
local generation = redis.call('HGET', KEYS[1], 'generation') or ''
if generation ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('HSET', KEYS[1], 'generation', ARGV[2], 'run', run_id(), 'settled', now() + ARGV[4], 'resume', ARGV[3])
return 1
"""
)
