"""Writing the roll-up, in the transaction that writes the entries, within bounds that no caller can raise.

Hosts, methods and paths come from callers. A tool brings at most NEW_CALLS_PER_HOUR of them into the tables in an hour,
and one destination at most CALLS_PER_DESTINATION; what comes on top is counted under OTHER.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

from cloned_proxy.store.audit.tally import HOUR, OTHER
from cloned_proxy.store.audit.transaction import transaction
from cloned_proxy.telemetry.combined import FinishedDecision, RepeatedDecision
from cloned_proxy.telemetry.events import Calls, DecisionEvent, Event

NEW_CALLS_PER_HOUR: Final = 2000
CALLS_PER_DESTINATION: Final = 200
_MAX_HOST: Final = 255
_MAX_PATH: Final = 256
_MAX_METHOD: Final = 32
_MAX_KNOWN: Final = 50_000
_BACKFILL_GROUP: Final = 500

_UPSERT: Final = (
    "INSERT INTO tally SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4 FROM json_each(?) "
    "WHERE true ON CONFLICT DO UPDATE SET count = count + excluded.count, "
    "first = min(first, excluded.first), last = max(last, excluded.last)"
)

type _Call = tuple[str | None, str, int, str, str, str, str]
"""Tool, host, port, method, path, verdict, reason."""
type _Numbers = list[float]
"""How often, first and last."""


class TallyWriter:
    """One for each writing process, used on the writer's thread. After a transaction that failed, take a new one."""

    def __init__(self) -> None:
        self._hour = 0
        self._known: dict[_Call, int] = {}
        """Row ids. Of this hour only: what was counted in it cannot be pruned meanwhile."""
        self._destinations: Counter[tuple[str | None, str, int]] = Counter()
        """New calls of this hour."""

    def add(self, database: sqlite3.Connection, events: Iterable[Event]) -> None:
        """Counts the decisions among the events, inside the caller's transaction. Raises sqlite3.Error."""
        counted: dict[_Call, _Numbers] = {}
        for event in events:
            if not isinstance(event, DecisionEvent):
                continue
            at = event.at
            if at // HOUR != self._hour:
                self._write(database, counted)
                self._begin(int(at // HOUR))
                counted = {}
            call = (event.tool, event.host, event.port, event.method, event.path, event.verdict, event.reason)
            numbers = counted.get(call)
            if numbers is None:
                counted[call] = [event.times, at, event.latest]
            else:
                numbers[0] += event.times
                numbers[1], numbers[2] = min(numbers[1], at), max(numbers[2], event.latest)
        self._write(database, counted)

    def add_calls(self, database: sqlite3.Connection, calls: Iterable[Calls]) -> None:
        """Adds calls that are counted already, as `add` does decisions."""
        for each in calls:
            hour = int(each.first // HOUR)
            if hour != self._hour:
                self._begin(hour)
            event = each.event
            call = (event.tool, event.host, event.port, event.method, event.path, event.verdict, event.reason)
            self._write(database, {call: [each.count, each.first, each.last]})

    def _begin(self, hour: int) -> None:
        self._hour = hour
        self._known.clear()
        self._destinations.clear()

    def _write(self, database: sqlite3.Connection, counted: dict[_Call, _Numbers]) -> None:
        if not counted:
            return
        if len(self._known) > _MAX_KNOWN:
            self._known.clear()
        room: dict[str | None, int] = {}
        rows: list[tuple[int, int, float, float, float]] = []
        for call, (count, first, last) in counted.items():
            known = self._known.get(call)
            if known is None:
                known = self._row(database, call, room)
            rows.append((known, self._hour, count, first, last))
        database.execute(_UPSERT, (json.dumps(rows),))

    def _row(self, database: sqlite3.Connection, asked: _Call, room: dict[str | None, int]) -> int:
        """The row of a call, made where there is room. `room` is for new calls of each tool, all processes together."""
        call = _plain(asked)
        found = _find(database, call)
        if found is None:
            tool, host, port, _, _, verdict, reason = call
            if tool not in room:
                room[tool] = NEW_CALLS_PER_HOUR - _new_calls(database, tool, self._hour)
            if room[tool] <= 0:
                return _find_or_make(database, (tool, OTHER, 0, OTHER, OTHER, verdict, reason), self._hour)
            if self._destinations[tool, host, port] >= CALLS_PER_DESTINATION:
                return _find_or_make(database, (tool, host, port, OTHER, OTHER, verdict, reason), self._hour)
            room[tool] -= 1
            self._destinations[tool, host, port] += 1
            found = _make(database, call, self._hour)
        self._known[asked] = found
        return found


def backfill(database: sqlite3.Connection, writer: TallyWriter) -> bool:
    """Counts a group of the entries of an older program; False when there is no more to do.

    In a transaction of its own, so that the audit writer writes in between. Raises sqlite3.Error.
    """
    begin, end = _marks(database)
    if begin >= end:
        return False
    with transaction(database):
        begin, end = _marks(database)  # another process may do the same
        rows = database.execute(
            "SELECT seq, body FROM entries WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?",
            (begin, end, _BACKFILL_GROUP),
        ).fetchall()
        writer.add(database, filter(None, (_decision(body) for _, body in rows)))
        reached = rows[-1][0] if rows else end
        database.execute("UPDATE meta SET value = ? WHERE key = 'tally_next'", (str(reached),))
    return True


def prune_tally(database: sqlite3.Connection, *, before: float) -> None:
    """Drops the hours that end before `before` (Unix seconds), and the calls that are left without any."""
    with transaction(database):
        if database.execute("DELETE FROM tally WHERE hour < ?", (int(before // HOUR),)).rowcount:
            database.execute("DELETE FROM tally_calls WHERE id NOT IN (SELECT call FROM tally)")


def _plain(asked: _Call) -> _Call:
    """The call as it stands in the table; what could not be read as plain text stands only in its entry."""
    tool, host, port, method, path, verdict, reason = asked
    return (
        tool or "",
        _short(host, _MAX_HOST),
        port,
        _short(method, _MAX_METHOD),
        _short(path, _MAX_PATH),
        verdict,
        str(reason),
    )


def _short(text: str, longest: int) -> str:
    return text if len(text) <= longest and text.isascii() and text.isprintable() else OTHER


def _find(database: sqlite3.Connection, call: _Call) -> int | None:
    row = database.execute(
        "SELECT id FROM tally_calls WHERE (tool, host, port, method, path, verdict, reason) = (?, ?, ?, ?, ?, ?, ?)",
        call,
    ).fetchone()
    return None if row is None else int(row[0])


def _make(database: sqlite3.Connection, call: _Call, hour: int) -> int:
    row = database.execute(
        "INSERT INTO tally_calls (tool, host, port, method, path, verdict, reason, since) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
        (*call, hour),
    ).fetchone()
    return int(row[0])


def _find_or_make(database: sqlite3.Connection, call: _Call, hour: int) -> int:
    found = _find(database, call)
    return _make(database, call, hour) if found is None else found


def _new_calls(database: sqlite3.Connection, tool: str | None, hour: int) -> int:
    row = database.execute("SELECT count(*) FROM tally_calls WHERE tool = ? AND since = ?", (tool, hour)).fetchone()
    return int(row[0])


def _marks(database: sqlite3.Connection) -> tuple[int, int]:
    """Up to where older entries are counted, and where they end."""
    marks = dict(database.execute("SELECT key, value FROM meta WHERE key IN ('tally_next', 'tally_end')"))
    return int(marks["tally_next"]), int(marks["tally_end"])


def _decision(body: str) -> DecisionEvent | None:
    """The decision that an entry holds; None for another kind of entry, and for one that this program did not write."""
    try:
        fields: dict[str, Any] = json.loads(body)
        if fields.pop("type") != "decision":
            return None
        kinds = RepeatedDecision if "count" in fields else FinishedDecision if "ended" in fields else DecisionEvent
        event = kinds(**fields)
        _plain((event.tool, event.host, event.port, event.method, event.path, event.verdict, event.reason))
        return event if event.at + event.port >= 0 else None
    except (TypeError, ValueError, AttributeError, KeyError):
        return None
