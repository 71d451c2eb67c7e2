"""The script that hands out shares of one tool's limits: it runs in the store as one step, beside no other.

A share is the part of a limit that one replica may use by itself, in the rolling windows of its own steady clock. The
shares of all replicas together are never more than the limit, so no window over all of them is either. A share comes
back in three ways: its replica gives back what it has not used within a window, and uses no more of that from before
it says so; or it was not heard of for as long as
shares last, and then for a whole window more, since it may have used all of it at the last moment; or its name belongs
to another process by now, and then after a window, too.

Time is counted in steps between two calls, of three seconds at most (every replica calls once a second), so a wall
clock that is set forward by an hour is three seconds ahead, which the windows have to spare; set back, it stands still.

Whatever is odd about the store is met by one rule: another process of the server answers, or one that took over; a
replica names data that this store never had; shares of the tool are gone before their time. Then it **settles**: for
some seconds it confirms to each replica what it says it has, and gives nothing new. For a window more all that is
there is what was confirmed, whatever the limit: nobody can say what replicas have spent that are gone.
"""

from __future__ import annotations

from typing import Final

SETTLE_MILLISECONDS: Final = 3000
"""In which every replica that is alive is back and has said what it has."""
CUT_AFTER_SECONDS: Final = 900
"""Seconds after the end of its share at which a replica cuts open flows of a tool with `concurrent`."""

_KNOWN: Final = """
local function run_id()
  return string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') .. ' '
    .. string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
end
local function tick(key)
  local t, kept = redis.call('TIME'), redis.call('HMGET', key, 'clock', 'wall')
  local wall = t[1] * 1000 + math.floor(t[2] / 1000)
  local now = wall
  if kept[1] and kept[2] then now = kept[1] + math.max(0, math.min(wall - kept[2], 3000)) end
  redis.call('HSET', key, 'clock', now, 'wall', wall)
  return now
end
"""

SHARE: Final = (
    _KNOWN
    + """
-- KEYS: the tool's shares, what is known of the server. ARGV: replica, process, milliseconds that a share lasts, ms to
-- settle, channel, tool, 1 if a request waits for it, the name of the data that the replica knows ('' for none), one
-- for new data, then of each limit: itself (-1 for none), used, kept, wanted. Nothing is taken from what a replica
-- keeps: it is used while this runs. Answers the share, how many have one, and the name of the data.
local me, process, lasts, told = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[8]
local tails = {64000, 3664000, 904000}
local of, there = 'of:' .. ARGV[6], redis.call('EXISTS', KEYS[1]) == 1
local server = redis.call('HMGET', KEYS[2], 'run', 'settled', 'data', 'lost', 'before', 'heard', of)
local now, run = tick(KEYS[2]), run_id()
local settled, data, lost = tonumber(server[2] or 0), server[3], server[4] == '1'
local before = server[5] or ''
local odd = false
if not data then
  odd = told ~= '' or there
else
  local known = told == '' or told == data or string.find(before, told, 1, true)
    or (told == server[6] and now < settled)
  odd = server[1] ~= run or not known or (not there and tonumber(server[7] or 0) > now)
end
if odd or not data then
  before = string.sub(before .. ' ' .. (data or ''), -272)
  data, settled, lost = ARGV[9], now + ARGV[4], odd
  redis.call('HSET', KEYS[2], 'run', run, 'settled', settled, 'data', data, 'lost', odd and 1 or 0, 'before', before,
    'heard', told)
end
if not there then
  for _, other in ipairs(redis.call('HRANDFIELD', KEYS[2], 4)) do
    if string.sub(other, 1, 3) == 'of:' and tonumber(redis.call('HGET', KEYS[2], other)) <= now then
      redis.call('HDEL', KEYS[2], other)
    end
  end
end
local settling = settled > now
local limit, used, keep, want = {}, {}, {}, {}
for d = 1, 3 do
  local at = 6 + 4 * d
  limit[d], used[d] = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
  keep[d], want[d] = tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
end
local all, shares, confirmed = redis.call('HGETALL', KEYS[1]), {}, nil
for i = 1, #all, 2 do
  if all[i] == ':confirmed' then confirmed = cjson.decode(all[i + 1]) else shares[all[i]] = cjson.decode(all[i + 1]) end
end
local former = shares[me]
if former and former.process ~= process then
  -- The process before is gone: its flows are closed, and its windows go on.
  former.has[3], former.ends = 0, math.min(former.ends, now)
  redis.call('HSET', KEYS[1], me .. ' ' .. former.process, cjson.encode(former))
  redis.call('HDEL', KEYS[1], me)
  shares[me .. ' ' .. former.process] = former
end
shares[me] = nil
if lost and not settling and (not confirmed or confirmed.data ~= data) then
  confirmed = {data = data, has = {keep[1], keep[2], keep[3]}}
  for _, share in pairs(shares) do
    for d = 1, 3 do
      if share.data == data then confirmed.has[d] = confirmed.has[d] + share.has[d] end
    end
  end
  redis.call('HSET', KEYS[1], ':confirmed', cjson.encode(confirmed))
end
local free, withheld = {}, {}
for d = 1, 3 do
  withheld[d] = lost and not settling and now < settled + tails[d]
  free[d] = withheld[d] and math.min(limit[d], confirmed.has[d]) or limit[d]
end
local sharers, hungry = 1, {0, 0, 0}
for name, share in pairs(shares) do
  local is_confirmed = not lost or share.data == data
  local ends = is_confirmed and share.ends or math.max(share.ends, settled)
  local kept = now < ends
  if kept then sharers = sharers + 1 end
  for d = 1, 3 do
    if share.has[d] > 0 and now < ends + tails[d] then
      kept = true
      -- What is not confirmed is part of what is withheld.
      if is_confirmed or not withheld[d] then free[d] = free[d] - share.has[d] end
    end
    if share.hungry[d] > 0 and now < share.at + 5000 then hungry[d] = 1 end
  end
  if not kept then redis.call('HDEL', KEYS[1], name) end
end
local mine = {process = process, data = data, at = now, ends = now + lasts, has = {0, 0, 0}, hungry = {0, 0, 0}}
local holds, starves = false, false
for d = 1, 3 do
  if limit[d] >= 0 then
    local most = math.max(free[d], 0)
    local target = want[d]
    if hungry[d] == 1 then
      -- Somewhere a request waits: what is free is for those that do, half of it for each, not for more room.
      local waits = ARGV[7] == '1' and keep[d] <= used[d]
      target = waits and math.min(target, used[d] + math.floor(math.max(most - used[d], 2) / 2)) or keep[d]
    end
    if settling then
      mine.has[d] = math.min(keep[d], limit[d])
    else
      mine.has[d] = math.min(math.max(target, keep[d]), most)
    end
    if ARGV[7] == '1' and mine.has[d] < want[d] and mine.has[d] <= used[d] then mine.hungry[d] = 1 end
    holds = holds or mine.has[d] > 0
    starves = starves or mine.hungry[d] == 1
  end
end
if holds or starves then
  redis.call('HSET', KEYS[1], me, cjson.encode(mine))
else
  redis.call('HDEL', KEYS[1], me)
end
if redis.call('EXISTS', KEYS[1]) == 1 then
  -- The server ends keys by its wall clock: by far later than what is in there ends by ours.
  redis.call('PEXPIRE', KEYS[1], 604800000)
  redis.call('HSET', KEYS[2], of, now + lasts + 3690000)
else
  redis.call('HDEL', KEYS[2], of)
end
if starves and sharers > 1 then redis.call('PUBLISH', ARGV[5], ARGV[6]) end
return {mine.has[1], mine.has[2], mine.has[3], sharers, data}
"""
)

LOOK: Final = (
    _KNOWN
    + """
-- KEYS: what is known of the server. Answers the name of its data; '' where a share must be asked for to name it.
local server = redis.call('HMGET', KEYS[1], 'run', 'data')
if not server[2] or server[1] ~= run_id() then return '' end
tick(KEYS[1])
return server[2]
"""
)
