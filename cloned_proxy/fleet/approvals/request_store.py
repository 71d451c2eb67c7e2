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
-- KEYS: requests, decisions, ends. ARGV: id, request, milliseconds it waits, channel, most requests.
local over = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now - 86400000, 'LIMIT', 0, 100)
if #over > 0 then
  redis.call('HDEL', KEYS[1], unpack(over))
  redis.call('HDEL', KEYS[2], unpack(over))
  redis.call('ZREM', KEYS[3], unpack(over))
end
if redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[5]) then return 0 end
if redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2]) == 0 then return 1 end
redis.call('ZADD', KEYS[3], now + ARGV[3], ARGV[1])
redis.call('PUBLISH', ARGV[4], ARGV[1])
return 1
"""
)

READ: Final = (
    _NOW
    + """
-- KEYS: as above. Answers the time, then of each: id, request, milliseconds left, decision or ''.
local answer = {now}
local all = redis.call('HGETALL', KEYS[1])
for at = 1, #all, 2 do
  local ends = redis.call('ZSCORE', KEYS[3], all[at])
  if ends then
    table.insert(answer, all[at])
    table.insert(answer, all[at + 1])
    table.insert(answer, tonumber(ends) - now)
    table.insert(answer, redis.call('HGET', KEYS[2], all[at]) or '')
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
"""Requests and decisions at once."""
