"""The script that hands out shares of one tool's limits: it runs in the store as one step, beside no other.

A share is the part of a limit that one replica may use by itself, in the rolling windows of its own steady clock. The
shares of all replicas together are never more than the limit, so no window over all of them is either. A share comes
back in three ways: its replica gives back what it has not used within a window, and uses no more of that from before
it says so; or it was not heard of for as long as
shares last, and then for a whole window more, since it may have used all of it at the last moment; or its name belongs
to another process by now, and then after a window, too. Times are the store's own, so no host's clock matters.

A server that was restarted, or has taken over, may have forgotten shares: for some seconds it confirms to each replica
what it says it has, and gives nothing new. The same where it has lost its data while it ran, all of it or the shares of
one tool: every replica asks once a second whether that is so (`LOOK`). What was spent by a replica that is gone by then
nobody can say any more, so all that is not confirmed stays with nobody for a window, like the share of one that died.
"""

from __future__ import annotations

from typing import Final

SETTLE_MILLISECONDS: Final = 3000
"""In which every replica that is alive is back and has said what it has."""
CUT_AFTER_SECONDS: Final = 900
"""Seconds after the end of its share at which a replica cuts open flows of a tool with `concurrent`."""

SHARE: Final = """
-- KEYS: the tool's shares, what is known of the server. ARGV: replica, process, milliseconds that a share lasts, ms to
-- settle, channel, tool, 1 if a request waits for it, the data that the replica knows ('' for none), a name for new
-- data, then of each limit: itself (-1 for none), used, kept, wanted. Nothing is taken from what a replica keeps: it is
-- used while this runs. Answers the share, how many have one, the data, how often all had to say what they have.
local me, process, lasts = ARGV[1], ARGV[2], tonumber(ARGV[3])
local tails = {61000, 3660000, 900000}
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
local of = 'of:' .. ARGV[6]
local server = redis.call('HMGET', KEYS[2], 'run', 'settled', 'data', 'lost', of)
local settled, data, lost = tonumber(server[2] or 0), server[3], server[4]
if server[1] ~= run or not data then
  data, settled = data or ARGV[9], now + ARGV[4]
  redis.call('HSET', KEYS[2], 'run', run, 'settled', settled, 'data', data)
end
if ARGV[8] ~= '' and ARGV[8] ~= data and not lost then
  lost = now
  redis.call('HSET', KEYS[2], 'lost', lost)
end
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('HSET', KEYS[1], ':data', data)
  if tonumber(server[5] or 0) > now then
    -- Only the shares of this tool are gone.
    redis.call('HSET', KEYS[1], ':lost', now, ':settled', now + ARGV[4])
    redis.call('HINCRBY', KEYS[2], 'again', 1)
  end
  for _, other in ipairs(redis.call('HRANDFIELD', KEYS[2], 4)) do
    if string.sub(other, 1, 3) == 'of:' and tonumber(redis.call('HGET', KEYS[2], other)) <= now then
      redis.call('HDEL', KEYS[2], other)
    end
  end
end
local began = redis.call('HMGET', KEYS[1], ':data', ':lost', ':settled')
if began[1] ~= data then lost = nil end  -- these shares are older than the loss, and were not lost
lost = began[2] or lost
local settling = math.max(settled, tonumber(began[3] or 0)) > now
local limit, used, keep, want, free = {}, {}, {}, {}, {}
for d = 1, 3 do
  local at = 6 + 4 * d
  limit[d], used[d] = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
  keep[d], want[d] = tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  free[d] = limit[d]
end
local sharers, hungry = 1, {0, 0, 0}
local all, shares = redis.call('HGETALL', KEYS[1]), {}
for i = 1, #all, 2 do
  if string.sub(all[i], 1, 1) ~= ':' or all[i] == ':gone' then shares[all[i]] = cjson.decode(all[i + 1]) end
end
if not settling and lost and lost ~= 'held' then
  local gone = {process = '', at = 0, ends = tonumber(lost), has = {0, 0, 0}, hungry = {0, 0, 0}}
  for d = 1, 3 do
    local left = limit[d]
    for name, share in pairs(shares) do
      if name ~= me then left = left - share.has[d] end
    end
    gone.has[d] = math.max(0, left - keep[d])
  end
  shares[':gone'] = gone
  redis.call('HSET', KEYS[1], ':gone', cjson.encode(gone), ':lost', 'held')
end
for name, share in pairs(shares) do
  if name == me and share.process ~= process then
    -- The process before is gone: its flows are closed, and its windows go on.
    share.has[3], share.ends = 0, math.min(share.ends, now)
    name = me .. ' ' .. share.process
    redis.call('HSET', KEYS[1], name, cjson.encode(share))
    redis.call('HDEL', KEYS[1], me)
  end
  if name ~= me then
    local kept = now < share.ends
    if kept then sharers = sharers + 1 end
    for d = 1, 3 do
      if share.has[d] > 0 and now < share.ends + tails[d] then
        kept = true
        free[d] = free[d] - share.has[d]
      end
      if share.hungry[d] > 0 and now < share.at + 5000 then hungry[d] = 1 end
    end
    if not kept then redis.call('HDEL', KEYS[1], name) end
  end
end
local mine = {process = process, at = now, ends = now + lasts, has = {0, 0, 0}, hungry = {0, 0, 0}}
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
redis.call('PEXPIRE', KEYS[1], lasts + 3700000)
redis.call('HSET', KEYS[2], of, now + lasts + 3690000)
if starves and sharers > 1 then redis.call('PUBLISH', ARGV[5], ARGV[6]) end
return {mine.has[1], mine.has[2], mine.has[3], sharers, data, redis.call('HGET', KEYS[2], 'again') or '0'}
"""

LOOK: Final = ("data", "again")
"""Fields of what is known of the server: where they are others than a replica knows, it says what it has."""
