"""Reading the audit log for the UI: the newest entries first, bounded work whatever is asked."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cloned_proxy.store.audit.audit_log import times_of
from cloned_proxy.store.audit.database import open_database
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.telemetry.combined import common_digits, is_of_entry

_MOST_SCANNED: Final = 100_000
"""Entries looked at for one page: some fifty milliseconds. What was not looked at is on the next page."""
_DAY_MINUTES: Final = 24 * 60
_TIMES: Final = "iif(instr(body, '\"count\":'), CAST(substr(body, instr(body, '\"count\":') + 8, 10) AS INTEGER), 1)"


@dataclass(frozen=True, slots=True)
class DecisionFilter:
    """A filter; None is everything. `host` also matches the names below it."""

    tool: str | None = None
    host: str | None = None
    verdict: str | None = None
    reason: str | None = None

    @property
    def needles(self) -> list[str]:
        """Texts that stand in the stored body of every entry that matches: the rest need not be read as JSON.

        Bodies are canonical JSON, so a quote inside a value is escaped and these can only be the fields themselves.
        """
        fields = {"tool": self.tool, "verdict": self.verdict, "reason": self.reason}
        found = [f'"{name}":{json.dumps(value)}' for name, value in fields.items() if value is not None]
        return found if self.host is None else [*found, f'{json.dumps(self.host)[1:-1]}"']

    def matches(self, body: dict[str, Any]) -> bool:
        return (
            self.tool in (None, body.get("tool"))
            and self.verdict in (None, body.get("verdict"))
            and self.reason in (None, body.get("reason"))
            and (self.host is None or _covers(self.host, str(body.get("host", ""))))
        )


@dataclass(frozen=True, slots=True)
class DecisionPage:
    """One page. `next` goes into `before` of the next one; None at the end of the log."""

    entries: list[tuple[int, dict[str, Any]]]
    next: int | None


@dataclass(frozen=True, slots=True)
class DecisionCounts:
    allowed: int
    denied: int


class Record:
    """The log in one state.db. Every method raises StoreError, and none writes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._newest: dict[str, tuple[int, dict[str, Any] | None]] = {}
        """For each type of entry: the last entry that was looked at, and the newest one of that type."""
        self._minutes = _Minutes()
        self._lock = threading.Lock()

    def decisions(
        self, wanted: DecisionFilter, *, before: int | None = None, since: float | None = None, limit: int = 100
    ) -> DecisionPage:
        """Decisions, the newest first."""
        return self._walk("decision", wanted, before=before, since=since, limit=limit)

    def events(self, kind: str, *, before: int | None = None, limit: int = 100) -> DecisionPage:
        """Entries of one type, such as `run`, the newest first."""
        return self._walk(kind, DecisionFilter(), before=before, since=None, limit=limit)

    def decision(self, identifier: str) -> tuple[int, dict[str, Any]] | None:
        """The entry of the decision with this id; it may stand for several."""
        with self._open() as database:
            rows = database.execute(
                "SELECT seq, body FROM entries WHERE instr(body, ?) > 0 ORDER BY seq DESC",
                (f'"id":"{common_digits(identifier)}',),
            )
            for seq, text in rows:
                body = json.loads(text)
                if is_of_entry(identifier, body["id"], times_of(body)):
                    return seq, body
        return None

    def newest(self, kind: str) -> dict[str, Any] | None:
        """The last entry of one type. Looks at each entry once, however often it is asked."""
        with self._lock, self._open() as database:
            seen, known = self._newest.get(kind, (0, None))
            head = _head(database)
            row = database.execute(
                "SELECT body FROM entries WHERE seq > ? AND seq <= ? AND instr(body, ?) > 0 ORDER BY seq DESC LIMIT 1",
                (seen if seen <= head else 0, head, f'"type":"{kind}"'),
            ).fetchone()
            found = json.loads(row[0]) if row is not None else known if seen <= head else None
            self._newest[kind] = (head, found)
        return found

    def by_hour(self, now: float) -> list[DecisionCounts]:
        """Decisions of the last day up to now (Unix seconds), in 24 hours that end now, to the minute."""
        with self._lock, self._open() as database:
            return self._minutes.by_hour(database, now)

    def _walk(
        self,
        kind: str,
        wanted: DecisionFilter,
        *,
        before: int | None,
        since: float | None,
        limit: int,
    ) -> DecisionPage:
        found: list[tuple[int, dict[str, Any]]] = []
        with self._open() as database:
            head = _head(database)
            top = head + 1 if before is None else min(before, head + 1)
            floor = max(top - _MOST_SCANNED, 0)
            needles = [f'"type":"{kind}"', *wanted.needles]
            conditions = " AND instr(body, ?) > 0" * len(needles)
            rows = database.execute(
                f"SELECT seq, body FROM entries WHERE seq < ? AND seq >= ?{conditions} ORDER BY seq DESC",  # noqa: S608  fixed parts
                (top, floor, *needles),
            )
            for seq, text in rows:
                body = json.loads(text)
                if since is not None and body["at"] < since:
                    return DecisionPage(found, None)
                if wanted.matches(body):
                    found.append((seq, body))
                if len(found) == limit:
                    return DecisionPage(found, seq)
            oldest = database.execute("SELECT coalesce(min(seq), 0) FROM entries").fetchone()[0]
        return DecisionPage(found, floor if oldest < floor else None)

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        database = open_database(self._path)
        try:
            yield database
        except (sqlite3.Error, ValueError, KeyError) as error:
            raise StoreError(f"{self._path}: {error}; run `cloned-proxy audit verify`") from error
        finally:
            database.close()


class _Minutes:
    """Decisions by the minute. Looks at each entry once, and at none that was too old at the first question."""

    def __init__(self) -> None:
        self._seen = 0
        self._minutes: dict[int, DecisionCounts] = {}

    def by_hour(self, database: sqlite3.Connection, now: float) -> list[DecisionCounts]:
        first = int(now // 60) - _DAY_MINUTES + 1
        head = _head(database)
        if not self._seen or self._seen > head:  # the first question, or another log
            self._seen = _first_since(database, first * 60) - 1
            self._minutes.clear()
        # Read out of the text: the column `at` would read all of the JSON. A quote inside a value is escaped, so the
        # first `"at":` is the field. So is `"count":`, which only an entry of several calls has.
        rows = database.execute(
            "SELECT CAST(substr(body, instr(body, '\"at\":') + 5, 20) AS REAL) / 60 AS minute, "  # noqa: S608  fixed parts
            f'sum({_TIMES}), sum({_TIMES} * (instr(body, \'"verdict":"deny"\') > 0)) FROM entries '
            'WHERE seq > ? AND seq <= ? AND instr(body, \'"type":"decision"\') > 0 GROUP BY CAST(minute AS INTEGER)',
            (self._seen, head),
        )
        for minute, count, denied in rows:
            before = self._minutes.get(int(minute), DecisionCounts(0, 0))
            self._minutes[int(minute)] = DecisionCounts(before.allowed + count - denied, before.denied + denied)
        self._seen = head
        self._minutes = {minute: counts for minute, counts in self._minutes.items() if minute >= first}
        hours = [DecisionCounts(0, 0)] * (_DAY_MINUTES // 60)
        for minute, counts in self._minutes.items():
            hour = min((minute - first) // 60, len(hours) - 1)  # of a clock that was set back, the last one
            hours[hour] = DecisionCounts(hours[hour].allowed + counts.allowed, hours[hour].denied + counts.denied)
        return hours


def _head(database: sqlite3.Connection) -> int:
    return int(database.execute("SELECT coalesce(max(seq), 0) FROM entries").fetchone()[0])


def _first_since(database: sqlite3.Connection, since: float) -> int:
    """The number of the first entry of `since` or later: entries come in the order of their time, near enough."""
    low, high = database.execute("SELECT coalesce(min(seq), 1), coalesce(max(seq), 0) + 1 FROM entries").fetchone()
    while low < high:
        middle = (low + high) // 2
        row = database.execute("SELECT at FROM entries WHERE seq >= ? ORDER BY seq LIMIT 1", (middle,)).fetchone()
        if row is not None and row[0] is not None and row[0] < since:
            low = middle + 1
        else:
            high = middle
    return int(low)


def _covers(wanted: str, host: str) -> bool:
    return host == wanted or host.endswith(f".{wanted}")
