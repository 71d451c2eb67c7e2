"""The audit log in state.db: appending to the chain, reading it, verifying it, and letting its oldest part go."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import batched
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from cloned_proxy.store.audit.audit_tail import Written
from cloned_proxy.store.audit.chain import ChainLink, ChainReport, canonical_json, next_link, verify_chain
from cloned_proxy.store.audit.database import open_database
from cloned_proxy.store.audit.transaction import transaction
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.leases.lease_time import LeaseEnd, keep_lease_ends, lease_ends
from cloned_proxy.telemetry.combined import common_digits, is_of_entry
from cloned_proxy.telemetry.events import DecisionEvent, Entries, Event

type _Row = tuple[int, str, str]
"""Number, body and hash of an entry."""

_PRUNE_GROUP: Final = 5000
_TOGETHER: Final = 1500
"""Rows of one statement: as many as go to the store of a fleet as one group."""
_INSERT: Final = (
    "INSERT INTO entries (seq, body, hash) SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?) ORDER BY key"
)


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One entry as it was recorded; `body` holds the event's fields and its `type`."""

    seq: int
    hash: str
    body: dict[str, Any]

    @property
    def times(self) -> int:
        """How many calls it stands for."""
        return times_of(self.body)


def times_of(body: Mapping[str, Any]) -> int:
    """How many calls an entry stands for: equal denials in a row are one (`RepeatedDecision`)."""
    return int(body.get("count", 1)) if body.get("type", "decision") == "decision" else 1


@dataclass(frozen=True, slots=True)
class RuleHits:
    hits: int
    last: float
    """Unix seconds."""


class AuditLog:
    """The audit log for commands: reads, verifies, and appends single events beside a running proxy."""

    def __init__(self, path: Path) -> None:
        """Opens the log, making an empty one where there is none. Raises StoreError."""
        self._path = path
        self._database = open_database(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._database.close()

    def append(self, event: Event) -> None:
        """Puts one event on record, durably. Raises StoreError."""
        with self._clear_errors(), transaction(self._database, "IMMEDIATE"):
            append_events(self._database, [event])

    @contextlib.contextmanager
    def appending(self, event: Event) -> Iterator[sqlite3.Connection]:
        """Puts one event on record together with what is done inside: both stand, or neither.

        Other writers wait meanwhile. Raises StoreError, when the record cannot be made or kept.
        """
        with self._clear_errors(), transaction(self._database, "IMMEDIATE"):
            append_events(self._database, [event])
            yield self._database

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The database as of one moment. Raises StoreError."""
        with self._clear_errors(), transaction(self._database, "DEFERRED"):
            yield self._database

    def entries(
        self,
        *,
        after: int = 0,
        types: Collection[str] = ("decision",),
        denied: bool = False,
        tool: str | None = None,
        since: float | None = None,
        last: int | None = None,
    ) -> Iterator[LogEntry]:
        """Entries in the order in which they were recorded, which no clock can change.

        `after` is the last entry already seen (to follow), `since` Unix seconds, `last` keeps only the newest so many.
        Raises StoreError.
        """
        marks = ",".join("?" * len(types))
        where = [f"seq > ? AND type IN ({marks})"]
        values: list[object] = [after, *types]
        if since is not None:
            # By the index to the first one; from there on each is looked at, because a clock may have been set back.
            where.append("seq >= (SELECT min(seq) FROM entries INDEXED BY entries_at WHERE at >= ?) AND at >= ?")
            values += [since, since]
        for condition, value in (("tool = ?", tool), ("verdict = ?", "deny" if denied else None)):
            if value is not None:
                where.append(condition)
                values.append(value)
        query = f"SELECT seq, hash, body FROM entries WHERE {' AND '.join(where)} ORDER BY seq"  # noqa: S608  fixed parts
        if last is not None:
            query = f"SELECT * FROM ({query} DESC LIMIT {int(last)}) ORDER BY seq"  # noqa: S608  an integer
        with self._clear_errors():
            for seq, digest, body in self._database.execute(query, values):
                yield LogEntry(seq, digest, json.loads(body))

    def decision(self, decision_id: str) -> LogEntry | None:
        """The entry of the decision with this id; None for none. The newest are looked at first. Raises StoreError.

        It may stand for several calls, each with its id (`repeated_id`). There is no index: random ids would double
        what each entry costs the writer.
        """
        query = "SELECT seq, hash, body FROM entries WHERE type = 'decision' AND instr(body, ?) > 0 ORDER BY seq DESC"
        with self._clear_errors():
            for seq, digest, body in self._database.execute(query, (f'"id":"{common_digits(decision_id)}',)):
                entry = LogEntry(seq, digest, json.loads(body))
                if is_of_entry(decision_id, entry.body.get("id", ""), entry.times):
                    return entry
        return None

    def newest(self) -> int:
        """The number of the newest entry, 0 for none. Raises StoreError."""
        with self.reading() as database:
            return int(database.execute("SELECT coalesce(max(seq), 0) FROM entries").fetchone()[0])

    def verify(self) -> ChainReport:
        """Checks the chain from the anchor to the head, as of one moment."""
        anchor = ChainLink(0, "")
        try:
            with transaction(self._database, "DEFERRED"):
                anchor = _link(self._database, "anchor")
                rows = self._database.execute("SELECT seq, body, hash FROM entries ORDER BY seq")
                return verify_chain(anchor, rows, _link(self._database, "head"))
        except (sqlite3.Error, ValueError) as error:
            return ChainReport(0, anchor.seq + 1, f"the log cannot be read to its end: {error}")

    def rule_hits(self) -> dict[str, RuleHits]:
        """How often and when each rule last decided, by rule id. Raises StoreError."""
        with self._clear_errors():
            rows = self._database.execute("SELECT rule, hits, last FROM rule_hits")
            return {rule: RuleHits(hits, last) for rule, hits, last in rows}

    def lease_uses(self) -> dict[str, int]:
        """Uses taken from rules with `max_uses`, by rule id. Raises StoreError."""
        with self._clear_errors():
            return lease_uses(self._database)

    def lease_ends(self) -> list[LeaseEnd]:
        """What was left of leases with an end when it was last kept. Raises StoreError."""
        with self._clear_errors():
            return lease_ends(self._database)

    def keep_lease_ends(self, ends: Collection[LeaseEnd]) -> None:
        """Keeps what is left of the leases in force. Raises StoreError."""
        with self._clear_errors(), transaction(self._database, "IMMEDIATE"):
            keep_lease_ends(self._database, ends)

    @contextlib.contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, ValueError) as error:
            raise StoreError(f"{self._path}: {error}; run `cloned-proxy audit verify`") from error


def append_events(database: sqlite3.Connection, events: Iterable[Event]) -> list[Written]:
    """Appends to the chain, inside a transaction that the caller began with BEGIN IMMEDIATE; returns what was added."""
    link = _link(database, "head")
    rows: list[_Row] = []
    hits: dict[str, tuple[int, float]] = {}
    spent: dict[str, int] = {}
    for event in events:
        body = canonical_json(event)
        link = next_link(link, body)
        rows.append((link.seq, body, link.hash))
        if isinstance(event, DecisionEvent) and event.rule:
            hits[event.rule] = (hits.get(event.rule, (0, 0.0))[0] + event.times, event.latest)
            if event.spends_use:
                spent[event.rule] = spent.get(event.rule, 0) + 1
    if not rows:
        return []
    database.executemany(
        "INSERT INTO leases VALUES (?, ?) ON CONFLICT (rule) DO UPDATE SET used = used + excluded.used",
        list(spent.items()),
    )
    return _insert(database, rows, hits)


def append_bodies(database: sqlite3.Connection, entries: Entries) -> list[Written]:
    """Appends entries in their stored form, as `append_events` does events. They spend no uses."""
    link = _link(database, "head")
    rows: list[_Row] = []
    for body in entries.bodies:
        link = next_link(link, body)
        rows.append((link.seq, body, link.hash))
    hits: dict[str, tuple[int, float]] = {}
    for calls in entries.calls:
        if not calls.event.rule:
            continue
        count, last = hits.get(calls.event.rule, (0, 0.0))
        hits[calls.event.rule] = (count + calls.count, max(last, calls.last))
    return _insert(database, rows, hits) if rows else []


def _insert(database: sqlite3.Connection, rows: list[_Row], hits: dict[str, tuple[int, float]]) -> list[Written]:
    written: list[Written] = []
    # One statement for many, not one a row: each is a hand-over of the interpreter lock, and the event loop pays.
    for part in batched(rows, _TOGETHER):
        text = json.dumps(part)
        database.execute(_INSERT, (text,))
        written.append(Written(part[0][0], part[-1][0], part[-1][2], text))
    _set_link(database, "head", ChainLink(rows[-1][0], rows[-1][2]))
    database.executemany(
        "INSERT INTO rule_hits VALUES (?, ?, ?) "
        "ON CONFLICT (rule) DO UPDATE SET hits = hits + excluded.hits, last = max(last, excluded.last)",
        [(rule, count, at) for rule, (count, at) in hits.items()],
    )
    return written


def forget_rules(database: sqlite3.Connection, rules: Iterable[str]) -> None:
    """Drops the lease counts of rules that left the policy, inside the caller's transaction."""
    database.executemany("DELETE FROM leases WHERE rule = ?", [(rule,) for rule in rules])


def lease_use(database: sqlite3.Connection, rule: str) -> int:
    """Uses taken from one rule. Raises sqlite3.Error."""
    row = database.execute("SELECT used FROM leases WHERE rule = ?", (rule,)).fetchone()
    return int(row[0]) if row is not None else 0


def lease_uses(database: sqlite3.Connection) -> dict[str, int]:
    """Uses taken, by rule id. Raises sqlite3.Error."""
    return dict(database.execute("SELECT rule, used FROM leases"))


def prune_entries(database: sqlite3.Connection, *, before: float | None) -> int:
    """Removes a group of the oldest entries, none at or behind the first one of `before` (Unix seconds) or later.

    None removes them whatever their age.

    How many went; 0 when there is no more to do. Always a prefix of the chain, in one small transaction with the
    anchor moved in it: the rest verifies at any moment, and the writer writes in between.
    """
    with transaction(database, "IMMEDIATE"):
        anchor = _link(database, "anchor")
        rows = database.execute(
            "SELECT seq, hash, at FROM entries WHERE seq > ? ORDER BY seq LIMIT ?", (anchor.seq, _PRUNE_GROUP)
        ).fetchall()
        last = None
        for seq, digest, at in rows:
            if before is not None and (at is None or at >= before):
                break
            last = ChainLink(seq, digest)
        if last is None:
            return 0
        database.execute("DELETE FROM entries WHERE seq <= ?", (last.seq,))
        _set_link(database, "anchor", last)
        return last.seq - anchor.seq


def used_bytes(database: sqlite3.Connection) -> int:
    """What the database takes up of its file; pages that pruning has freed are used again first."""
    pages, free, size = (
        database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


def newest_at(database: sqlite3.Connection) -> float | None:
    """When the newest entry was recorded (Unix seconds); None for an empty log. Raises sqlite3.Error."""
    row = database.execute("SELECT at FROM entries ORDER BY seq DESC LIMIT 1").fetchone()
    return None if row is None else row[0]


def _link(database: sqlite3.Connection, name: str) -> ChainLink:
    values = dict(database.execute("SELECT key, value FROM meta WHERE key IN (?, ?)", (f"{name}_seq", f"{name}_hash")))
    if len(values) != 2:  # noqa: PLR2004  the two parts of a link
        raise sqlite3.DatabaseError(f"the chain's {name} is missing")
    return ChainLink(int(values[f"{name}_seq"]), values[f"{name}_hash"])


def _set_link(database: sqlite3.Connection, name: str, link: ChainLink) -> None:
    database.executemany(
        "UPDATE meta SET value = ? WHERE key = ?", [(str(link.seq), f"{name}_seq"), (link.hash, f"{name}_hash")]
    )
