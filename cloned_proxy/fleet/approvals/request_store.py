"""Requests of tools and the decisions of people, in the store: its keys, and the scripts that change them.

A request is unproven text, to be shown to a person. A decision is signed, and of two the first one stands.
"""

from __future__ import annotations

from typing import Final


class RequestNames:
    """The keys of one fleet. See `names`: the braces are a hash tag."""

    def __init__(self, fleet: str) -> None:
        prefix = f"cloned:{{{fleet}}}:requests"
        self.requests: Final = prefix
        """Hash: id to the request (JSON)."""
        self.ends: Final = f"{prefix}:ends"
        """Sorted set: id by the store's milliseconds at which it is over, or its decision is."""
        self.decisions: Final = f"{prefix}:decisions"
        """Hash: id to the envelope of its decision."""
        self.news: Final = f"{prefix}:news"
        """Channel: the id of a request that is new or decided. A hint to read, and nothing more."""

    @property
    def keys(self) -> tuple[str, str, str]:
        return self.requests, self.decisions, self.ends


_NOW: Final = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
"""

ASK: Final = (
    _NOW
    + """
-- KEYS: requests, decisions, ends. ARGV: id, request, milliseconds it waits, channel, most requests that wait,
-- the longest that anything lasts, how many requests this replica has here. Answers 0 where there is no room for more.
local function forget(ids)
  if #ids == 0 then return end
  redis.call('HDEL', KEYS[1], unpack(ids))
  redis.call('HDEL', KEYS[2], unpack(ids))
  redis.call('ZREM', KEYS[3], unpack(ids))
end
forget(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now - 86400000, 'LIMIT', 0, 100))
-- What nobody of a fleet has put there: it ends too late, or never.
forget(redis.call('ZRANGEBYSCORE', KEYS[3], '(' .. string.format('%.0f', now + ARGV[6]), '+inf', 'LIMIT', 0, 1000))
if redis.call('HLEN', KEYS[1]) > redis.call('ZCARD', KEYS[3]) then
  local endless = {}
  for _, id in ipairs(redis.call('HRANDFIELD', KEYS[1], 1000)) do
    if not redis.call('ZSCORE', KEYS[3], id) then table.insert(endless, id) end
  end
  forget(endless)
end
if redis.call('HGET', KEYS[1], ARGV[1]) then return 1 end
local held = redis.call('HLEN', KEYS[1])
local over = held - redis.call('HLEN', KEYS[2]) - ARGV[5] + 1
if over > 0 then
  -- Who has the most of a sample gives some up, if that is much more than the replica which asks has told itself.
  local of, most = {}, {}
  local sample = redis.call('HRANDFIELD', KEYS[1], 200)
  for _, id in ipairs(sample) do
    if not redis.call('HGET', KEYS[2], id) then
      local from = string.match(redis.call('HGET', KEYS[1], id), '"replica": "([^"]*)"') or ''
      of[from] = of[from] or {}
      table.insert(of[from], id)
      if #of[from] > #most then most = of[from] end
    end
  end
  if #most * held / #sample <= 2 * (ARGV[7] + 1) then return 0 end
  forget({unpack(most, 1, math.min(over, #most))})
end
redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[3], now + ARGV[3], ARGV[1])
redis.call('PUBLISH', ARGV[4], ARGV[1])
return 1
"""
)

READ: Final = (
    _NOW
    + """
-- KEYS: as above. ARGV: bytes of the longest id, of one field, of all together. Answers the time and how many it leaves
-- out, then of each of the others: id, request, milliseconds left, decision or ''.
local found, sum, without = {}, 0, 0
local all = redis.call('HGETALL', KEYS[1])
for at = 1, #all, 2 do
  local ends = redis.call('ZSCORE', KEYS[3], all[at])
  if ends then
    local decision = redis.call('HGET', KEYS[2], all[at]) or ''
    if #all[at] > tonumber(ARGV[1]) or math.max(#all[at + 1], #decision) > tonumber(ARGV[2]) then
      without = without + 1
    else
      local size = 400 + #all[at] + #all[at + 1] + #decision
      sum = sum + size
      table.insert(found, {size, all[at], all[at + 1], tonumber(ends) - now, decision})
    end
  end
end
local most = tonumber(ARGV[3])
if sum > most then table.sort(found, function(one, other) return one[1] < other[1] end) end
local answer = {now, without}
for _, each in ipairs(found) do
  most = most - each[1]
  if most < 0 then
    answer[2] = answer[2] + 1
  else
    for at = 2, 5 do table.insert(answer, each[at]) end
  end
end
return answer
"""
)

DECIDE: Final = (
    _NOW
    + """
-- KEYS: as above. ARGV: id, envelope, milliseconds for which it matters, channel. Answers the decision that stands.
local decided = redis.call('HGET', KEYS[2], ARGV[1])
if decided then return decided end
local ends = redis.call('ZSCORE', KEYS[3], ARGV[1])
if not ends or tonumber(ends) <= now then return '' end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[3], now + ARGV[3], ARGV[1])
redis.call('PUBLISH', ARGV[4], ARGV[1])
return ARGV[2]
"""
)
MOST: Final = 10_000
"""Requests that wait at once."""
LONGEST_ID: Final = 60
MOST_BYTES: Final = 64 * 1024
"""Size of one request, and of one decision."""
MOST_ANSWERED: Final = 8 * 1024 * 1024
"""Bytes of all requests and decisions at once, the smallest first: what is read within one call, on a busy machine."""
READ_BOUNDS: Final = (str(LONGEST_ID), str(MOST_BYTES), str(MOST_ANSWERED - 1024))
LONGEST_MILLISECONDS: Final = 32 * 86_400_000
"""No request waits, and no decision is kept, for longer."""
