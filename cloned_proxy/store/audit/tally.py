"""The roll-up of recorded decisions: how often each tool asked for what, by the hour.

Tables `tally_calls` and `tally` of state.db. Evidence, suggestions and the overview of blocked calls read them, not a
million entries. It is a summary for people: the chained entries are the record.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from cloned_proxy.policy.terms.host import parse_pattern
from cloned_proxy.policy.terms.rule import HostPattern, PatternKind
from cloned_proxy.store.audit.database import open_database
from cloned_proxy.store.files.errors import StoreError

HOUR: Final = 3600
OTHER: Final = "_other"
"""Stands for hosts (then with port 0), methods and paths over the bounds of `tally_writer`."""
EVERY_TOOL: Final = "*"
_CACHE_KIB: Final = 65_536
"""Taken as pages are read: a million calls of different hosts are read in an order that is not the file's."""
# In this order: from the calls, which a condition makes few, to their hours.
JOIN: Final = "tally_calls CROSS JOIN tally ON call = id"


class RecordedCall(NamedTuple):
    """What was asked in one way, and how often. `host`, `method` and `path` may be OTHER.

    A tuple, because a week of a million decisions makes a hundred thousand of them.
    """

    tool: str | None
    host: str
    port: int
    method: str
    """`CONNECT` for a tunnel; its path is ""."""
    path: str
    verdict: str
    reason: str
    count: int  # type: ignore[assignment]  # hides tuple.count, which is not used here
    first: float
    """Unix seconds."""
    last: float


class BlockedCall(NamedTuple):
    """One way in which a host was asked for and refused. `method` and `path` as in RecordedCall."""

    port: int
    reason: str
    method: str
    path: str
    count: int  # type: ignore[assignment]  # as in RecordedCall


@dataclass(frozen=True, slots=True)
class BlockedGroup:
    """All that one tool was refused of one host."""

    tool: str | None
    host: str
    count: int
    first: float
    """Unix seconds."""
    last: float
    calls: tuple[BlockedCall, ...]
    """The most frequent first."""


class Tally:
    """Reads the roll-up. `since` and `until` are Unix seconds; an hour that `since` lies in is counted whole."""

    def __init__(self, path: Path) -> None:
        """Opens state.db. Raises StoreError."""
        self._path = path
        self._database = open_database(path)
        self._database.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self.define("in_network", _in_network)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._database.close()

    def calls(
        self,
        *,
        since: float,
        until: float | None = None,
        tool: str | None = EVERY_TOOL,
        verdict: str | None = None,
        host: str | None = None,
    ) -> list[RecordedCall]:
        """What was asked, summed up over the hours, the most frequent first.

        `tool` None is the anonymous caller; `host` may be any host pattern of a rule. Raises StoreError, HostError.
        """
        where, values = _conditions(since, until, tool, verdict, host)
        query = (
            "SELECT nullif(tool, ''), host, port, method, path, verdict, reason, "  # noqa: S608  fixed parts
            f"sum(count) AS times, min(first), max(last) FROM {JOIN} WHERE {where} GROUP BY id ORDER BY times DESC"
        )
        with self._clear_errors():
            return list(map(RecordedCall._make, self._database.execute(query, values)))

    def count(self, *, since: float, verdict: str | None = None, tool: str | None = EVERY_TOOL) -> int:
        """How many decisions. Raises StoreError."""
        where, values = _conditions(since, None, tool, verdict, None)
        query = f"SELECT coalesce(sum(count), 0) FROM {JOIN} WHERE {where}"  # noqa: S608  fixed parts
        with self._clear_errors():
            return int(self._database.execute(query, values).fetchone()[0])

    def blocked(self, *, since: float, tool: str | None = EVERY_TOOL, limit: int = 500) -> list[BlockedGroup]:
        """What was refused, by tool and host, the latest first. Raises StoreError."""
        where, values = _conditions(since, None, tool, "deny", None)
        query = (
            "SELECT tool, host, sum(count), min(first), max(last) "  # noqa: S608  fixed parts
            f"FROM {JOIN} WHERE {where} GROUP BY host, tool ORDER BY 5 DESC LIMIT ?"
        )
        with self._clear_errors():
            groups = self._database.execute(query, (*values, limit)).fetchall()
            calls = self._calls_of([group[:2] for group in groups], where, values)
        return [
            BlockedGroup(tool or None, host, count, first, last, tuple(calls[tool, host]))
            for tool, host, count, first, last in groups
        ]

    def _calls_of(self, places: list[_Place], where: str, values: list[object]) -> dict[_Place, list[BlockedCall]]:
        query = (
            "SELECT tool, host, port, reason, method, path, sum(count) FROM (SELECT value AS place FROM json_each(?)) "  # noqa: S608  fixed parts
            f"CROSS JOIN {JOIN} WHERE (tool, host) = (place ->> 0, place ->> 1) AND {where} GROUP BY id ORDER BY 7 DESC"
        )
        calls: dict[_Place, list[BlockedCall]] = {place: [] for place in places}
        for tool, host, *call in self._database.execute(query, (json.dumps(places), *values)):
            calls[tool, host].append(BlockedCall._make(call))
        return calls

    def rows(self, query: str, values: tuple[object, ...]) -> list[Any]:
        """For `covered_calls`. Raises StoreError."""
        with self._clear_errors():
            return self._database.execute(query, values).fetchall()

    def define(self, name: str, function: Callable[..., bool]) -> None:
        """Makes a function known to the queries of `rows`."""
        self._database.create_function(name, -1, function, deterministic=True)

    @contextlib.contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(f"{self._path}: {error}; run `cloned-proxy audit verify`") from error


type _Place = tuple[str, str]
"""Tool and host."""


def _conditions(
    since: float, until: float | None, tool: str | None, verdict: str | None, host: str | None
) -> tuple[str, list[object]]:
    """The WHERE of a query, and its values."""
    where = ["hour >= ? AND last >= ?"]
    values: list[object] = [int(since // HOUR), since]
    if until is not None:
        where.append("hour <= ? AND first <= ?")
        values += [int(until // HOUR), until]
    if verdict is not None:
        where.append("verdict = ?")
        values.append(verdict)
    if tool != EVERY_TOOL:
        where.append("tool = ?")
        values.append(tool or "")
    if host is not None:
        condition, more = condition_of_host(parse_pattern(host))
        where.append(condition)
        values += more
    return " AND ".join(where), values


def _in_network(network: str, host: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network)
    except ValueError:
        return False  # a name


def condition_of_host(pattern: HostPattern) -> tuple[str, tuple[str, ...]]:
    """The part of a WHERE that holds for the hosts of a pattern, and its values."""
    below = f"*.{pattern.value}"  # GLOB, whose special characters no pattern holds
    match pattern.kind:
        case PatternKind.EXACT | PatternKind.ADDRESS:
            return "host = ?", (pattern.value,)
        case PatternKind.CIDR:
            return "in_network(?, host)", (pattern.value,)
        case PatternKind.PUBLIC:
            return "host GLOB ?", ("*.*",)
        case PatternKind.ANY_DEPTH:
            return "host GLOB ?", (below,)
        case PatternKind.ONE_LABEL:
            return "host GLOB ? AND host NOT GLOB ?", (below, f"*.{below}")
