"""Reading the audit log for the UI: the newest entries first, bounded work whatever is asked."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cloned_proxy.store.database import open_database
from cloned_proxy.store.errors import StoreError

_MOST_SCANNED: Final = 50_000
"""Entries looked at for one page: about a tenth of a second. What was not looked at is on the next page."""
_VERDICTS: Final = ("allow", "deny", "report")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A filter; None is everything. `host` also matches the names below it."""

    tool: str | None = None
    host: str | None = None
    verdict: str | None = None
    reason: str | None = None

    def matches(self, body: dict[str, Any]) -> bool:
        return (
            self.tool in (None, body.get("tool"))
            and self.verdict in (None, body.get("verdict"))
            and self.reason in (None, body.get("reason"))
            and (self.host is None or _covers(self.host, str(body.get("host", ""))))
        )


@dataclass(frozen=True, slots=True)
class Found:
    """One page. `next` goes into `before` of the next one; None at the end of the log."""

    entries: list[tuple[int, dict[str, Any]]]
    next: int | None


@dataclass(frozen=True, slots=True)
class Counts:
    allowed: int
    denied: int


class Record:
    """The log in one state.db. Every method raises StoreError, and none writes."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def decisions(
        self, wanted: Wanted, *, before: int | None = None, since: float | None = None, limit: int = 100
    ) -> Found:
        """Decisions, the newest first."""
        return self._walk("decision", wanted.matches, before=before, since=since, limit=limit)

    def events(self, kind: str, *, before: int | None = None, limit: int = 100) -> Found:
        """Entries of one type, such as `run`, the newest first."""
        return self._walk(kind, lambda _body: True, before=before, since=None, limit=limit)

    def decision(self, identifier: str) -> tuple[int, dict[str, Any]] | None:
        """The decision with this id."""
        with self._open() as database:
            row = database.execute(
                "SELECT seq, body FROM entries WHERE instr(body, ?) > 0 ORDER BY seq DESC LIMIT 1",
                (f'"id":"{identifier}"',),
            ).fetchone()
        return (row[0], json.loads(row[1])) if row is not None else None

    def newest(self, kind: str) -> dict[str, Any] | None:
        """The last entry of one type."""
        with self._open() as database:
            row = database.execute(
                "SELECT body FROM entries WHERE instr(body, ?) > 0 ORDER BY seq DESC LIMIT 1", (f'"type":"{kind}"',)
            ).fetchone()
        return json.loads(row[0]) if row is not None else None

    def counts(self, since: float) -> Counts:
        """Decisions since then (Unix seconds)."""
        with self._open() as database:
            # Looked for as text: quotes inside a value are escaped, so these words can only be the fields themselves.
            rows = database.execute(
                'SELECT count(*), coalesce(sum(instr(body, \'"verdict":"deny"\') > 0), 0) FROM entries '
                'WHERE seq >= ? AND instr(body, \'"type":"decision"\') > 0',
                (_first_since(database, since),),
            ).fetchone()
        return Counts(allowed=rows[0] - rows[1], denied=rows[1])

    def _walk(
        self,
        kind: str,
        matches: Callable[[dict[str, Any]], bool],
        *,
        before: int | None,
        since: float | None,
        limit: int,
    ) -> Found:
        found: list[tuple[int, dict[str, Any]]] = []
        with self._open() as database:
            head = database.execute("SELECT coalesce(max(seq), 0) FROM entries").fetchone()[0]
            top = head + 1 if before is None else min(before, head + 1)
            floor = max(top - _MOST_SCANNED, 0)
            rows = database.execute(
                "SELECT seq, body FROM entries WHERE seq < ? AND seq >= ? AND instr(body, ?) > 0 ORDER BY seq DESC",
                (top, floor, f'"type":"{kind}"'),
            )
            for seq, text in rows:
                body = json.loads(text)
                if since is not None and body["at"] < since:
                    return Found(found, None)
                if matches(body):
                    found.append((seq, body))
                if len(found) == limit:
                    return Found(found, seq)
            oldest = database.execute("SELECT coalesce(min(seq), 0) FROM entries").fetchone()[0]
        return Found(found, floor if oldest < floor else None)

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        database = open_database(self._path)
        try:
            yield database
        except (sqlite3.Error, ValueError, KeyError) as error:
            raise StoreError(f"{self._path}: {error}; run `cloned-proxy audit verify`") from error
        finally:
            database.close()


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
