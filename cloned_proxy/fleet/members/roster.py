"""Who is in the fleet: each process of a replica says how it is, and the store's own clock says how long ago.

Nothing here is signed, and nothing is decided by it: it is for people, and for a publisher that counts. Whoever may
write into the store can make up replicas that are not there, and say of real ones what it likes; so what is read here
is bounded in number and size, and read strictly. What a replica has really done is in its own log, which it signs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from cloned_proxy.fleet.link.link import Link
from cloned_proxy.fleet.link.names import Names
from cloned_proxy.fleet.signed.errors import StoreAwayError
from cloned_proxy.fleet.signed.statement import MAX_NUMBER, Number

REPORT_SECONDS: Final = 10.0
"""Between two reports of one process; and one at once when something changes."""
LIVE_SECONDS: Final = 30.0
"""One that was silent for longer is away."""
_FORGOTTEN_SECONDS: Final = 86_400.0
_MOST_BYTES: Final = 4096
_MOST: Final = 15_000
"""Processes, those that were heard last."""
_MOST_KEYS: Final = 32
_MOST_ANSWERED: Final = 64 * 1024 * 1024
"""Size of the whole roster in bytes: some ten thousand processes."""

# KEYS: replicas, replicas:seen. ARGV: process, report, seconds after which silent ones are forgotten, channel. A time
# that is yet to come is none that this script has written by this clock.
_SAY: Final = """
local now = tonumber(redis.call('TIME')[1])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[2], now, ARGV[1])
for _, range in ipairs({{'-inf', now - tonumber(ARGV[3])}, {'(' .. now, '+inf'}}) do
  local old = redis.call('ZRANGEBYSCORE', KEYS[2], range[1], range[2], 'LIMIT', 0, 100)
  if #old > 0 then
    redis.call('HDEL', KEYS[1], unpack(old))
    redis.call('ZREM', KEYS[2], unpack(old))
  end
end
redis.call('PUBLISH', ARGV[4], ARGV[2])
return 1
"""
# KEYS: as above. ARGV: seconds after which silent ones are forgotten, the most processes, the most bytes of a report.
# Answers report, seconds since, and so on.
_LIST: Final = """
local now = tonumber(redis.call('TIME')[1])
local found = {}
local seen = redis.call('ZRANGE', KEYS[2], now, now - ARGV[1], 'BYSCORE', 'REV', 'LIMIT', 0, ARGV[2], 'WITHSCORES')
for at = 1, #seen, 2 do
  local report = redis.call('HGET', KEYS[1], seen[at])
  if report and #report <= tonumber(ARGV[3]) then
    found[#found + 1] = report
    found[#found + 1] = now - tonumber(seen[at + 1])
  end
end
return found
"""


@dataclass(frozen=True, slots=True)
class Report:
    """What one process of a replica says of itself."""

    replica: str
    worker: int
    epoch: int = 0
    version: int = 0
    sha256: str = ""
    """Hash of the text of the policy in force; "" for none."""
    age: float | None = None
    """Seconds since the source said that this is the newest; None: never."""
    denying: bool = False
    """Everything is denied, for want of a policy or of news about it."""
    tunnels: int = 0
    since: float = 0.0
    """When the process began (Unix seconds, by its own clock)."""
    trust: tuple[str, ...] = ()
    """Ids of the keys whose signature it accepts."""
    problem: str = ""

    @property
    def number(self) -> Number:
        return Number(self.epoch, self.version)


@dataclass(frozen=True, slots=True)
class Seen:
    """A report, and how old it is."""

    report: Report
    silent: float
    """Seconds by the store's clock."""

    @property
    def live(self) -> bool:
        return self.silent <= LIVE_SECONDS


async def say(link: Link, names: Names, report: Report) -> None:
    """Raises StoreAwayError."""
    text = json.dumps(asdict(report))
    keys = (names.replicas, names.replicas_seen)
    arguments = (_process(report), text, str(_FORGOTTEN_SECONDS), names.replica_news)
    await link.run(lambda redis: redis.eval(_SAY, len(keys), *keys, *arguments))


async def leave(link: Link, names: Names, report: Report) -> None:
    """Takes the process off the roster: it has ended in order. Raises StoreAwayError."""

    async def work(redis: Any) -> None:
        await redis.zrem(names.replicas_seen, _process(report))
        await redis.hdel(names.replicas, _process(report))

    await link.run(work)


async def everybody(link: Link, names: Names) -> list[Seen]:
    """The processes that were heard of within a day, in the order of names. Raises StoreAwayError."""
    told = (names.replicas, names.replicas_seen, _FORGOTTEN_SECONDS, _MOST, _MOST_BYTES)
    found: Any = await link.run(lambda redis: redis.eval(_LIST, 2, *told), most=_MOST_ANSWERED)
    if not isinstance(found, list):
        raise StoreAwayError(f"{link.url}: the list of replicas cannot be read")
    pairs = zip(found[::2], found[1::2], strict=False)
    seen = [Seen(report, float(silent)) for raw, silent in pairs if (report := read_report(raw)) is not None]
    return sorted(seen, key=lambda each: (each.report.replica, each.report.worker))


def read_report(raw: bytes) -> Report | None:
    """What somebody wrote into the store; None for anything but a report."""
    try:
        document: Any = json.loads(raw) if len(raw) <= _MOST_BYTES else None
        known = {field.name for field in fields(Report)}
        given = {name: value for name, value in document.items() if name in known}
        report = Report(**{**given, "trust": tuple(given.get("trust", ()))})
        texts = (report.replica, report.sha256, report.problem, *report.trust)
        numbers = (report.since, 0 if report.age is None else report.age)
        whole = (report.worker, report.epoch, report.version, report.tunnels)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
    plain = all(isinstance(text, str) and text.isprintable() for text in texts)
    finite = all(type(number) in {int, float} and math.isfinite(number) and number >= 0 for number in numbers)
    counted = all(type(number) is int and 0 <= number <= MAX_NUMBER for number in whole)
    said = bool(report.replica) and type(report.denying) is bool and len(report.trust) <= _MOST_KEYS
    return report if plain and finite and counted and said else None


def behind(seen: Iterable[Seen], number: Number) -> list[str]:
    """The live replicas that have not all of their processes at this number, or a newer one."""
    return sorted({each.report.replica for each in seen if each.live and each.report.number < number})


def _process(report: Report) -> str:
    return f"{report.replica}/{report.worker}"
