"""What is read of state.db to send the log to the store of a fleet: groups of entries, and receipts."""

from __future__ import annotations

import sqlite3
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from cloned_proxy.fleet.audit.receipt import anchor_of, former_ids, head_of, log_id, new_log_id
from cloned_proxy.fleet.audit.stream_form import Item, group_of
from cloned_proxy.store.audit.audit_tail import AuditTail, Held
from cloned_proxy.store.audit.database import open_database, writing
from cloned_proxy.store.files.errors import StoreError

_GROUP: Final = 1500
"""Entries; most are small enough for so many to be no larger than a group may be."""
GROUP_BYTES: Final = 1_000_000
"""Size of a group, or of one larger entry alone: the newest group is read again whole, in an answer of 1 MiB."""
_JOINED_BYTES: Final = 64 * 1024
"""What was written in small parts is joined into groups of about this size; a larger part goes as it is."""
_RECEIPTS: Final = 100
"""At a time."""

# One value for the whole group, which SQLite puts together: a row at a time costs Python more than all the rest, and
# each row is a hand-over of the interpreter lock, which requests wait for. `hash` is of the row that max(seq) names:
# https://www.sqlite.org/lang_select.html#bareagg
_TAKE_ENTRIES: Final = """
SELECT count(*), max(seq), hash, CAST(json_group_array(json_array(seq, CAST(body AS TEXT), CAST(hash AS TEXT))) AS BLOB)
FROM (SELECT seq, body, hash FROM entries WHERE seq > ? ORDER BY seq LIMIT ?)
"""


class Group(NamedTuple):
    """Entries that go out together."""

    entries: int
    item: Item


class News(NamedTuple):
    """What is on record and was not sent."""

    newest: int
    """Number of the newest entry of the log."""
    groups: list[Group]
    receipts: list[Item]


class LocalLog:
    """What is read of state.db. Every method blocks, and raises StoreError."""

    def __init__(self, path: Path, tail: AuditTail | None = None) -> None:
        """`tail` spares the reading of what this process has just written."""
        self._path: Final = path
        self._tail: Final = tail
        self._lock = threading.Lock()
        self._database: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._close = weakref.finalize(self, int)

    def close(self) -> None:
        """Closes what is open; the next method opens it again."""
        with self._lock:
            self._close()
            self._database = None

    def identify(self) -> str:
        """The id of the log."""
        return self._with(log_id)

    def rename(self) -> str:
        """Gives it a new id."""
        with writing(self._path) as database:  # no receipt of the old id may come between
            return new_log_id(database)

    def renamed(self) -> int:
        """Number of the newest entry when the log got the id that it has; 0 where it never had another."""
        return self._with(lambda database: max((each.until for each in former_ids(database)), default=0))

    def bounds(self) -> tuple[int, int]:
        """The number before the oldest entry, and that of the newest."""
        return self._with(lambda database: (anchor_of(database).seq, head_of(database).seq))

    def hash_of(self, seq: int) -> str | None:
        """Hash of an entry that is still there, or of the one that the oldest follows."""

        def look(database: sqlite3.Connection) -> str | None:
            anchor = anchor_of(database)
            if seq == anchor.seq:
                return anchor.hash
            row = database.execute("SELECT hash FROM entries WHERE seq = ?", (seq,)).fetchone()
            return None if row is None else str(row[0])

        return self._with(look)

    def news(self, seq: int, receipt: int, *, most: int) -> News:
        """What goes out next behind this entry, and behind the receipt of that one: groups of `most` bytes together.

        Where it has to be read back from the disk it is one group.
        """

        def look(database: sqlite3.Connection) -> News:
            groups = self._take_tail(seq, most)
            newest = head_of(database).seq  # behind that: what the tail has is on record
            if groups and groups[-1].item.seq > newest:
                groups = []  # another file lies there now
            if not groups and newest > seq:
                groups = _take_entries(database, seq)
            return News(newest, groups, _take_receipts(database, receipt))

        return self._with(look)

    def _take_tail(self, seq: int, most: int) -> list[Group]:
        groups: list[Group] = []
        together: list[Held] = []
        size = 0
        for each in self._tail.after(seq, most=most) if self._tail is not None else ():
            if len(each.raw) > GROUP_BYTES:
                break  # from the disk, in parts
            size += len(each.raw)
            if together and size > _JOINED_BYTES:
                groups.append(_group_behind(seq, together))
                seq, together, size = groups[-1].item.seq, [], len(each.raw)
            together.append(each)
        return [*groups, _group_behind(seq, together)] if together else groups

    def lag(self, seq: int) -> tuple[int, float | None]:
        """Number of the newest entry, and when the first one behind `seq` was recorded (Unix seconds)."""

        def look(database: sqlite3.Connection) -> tuple[int, float | None]:
            query = "SELECT at FROM entries WHERE seq > ? ORDER BY seq LIMIT 1"
            rows = database.execute(query, (seq,)).fetchall()
            return head_of(database).seq, rows[0][0] if rows else None

        return self._with(look)

    def _with[T](self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._lock:
            try:
                return work(self._opened())
            except sqlite3.Error as error:
                self._close()
                self._database = None
                raise StoreError(f"{self._path}: {error}; run `cloned-proxy audit verify`") from error

    def _opened(self) -> sqlite3.Connection:
        """The connection, kept from call to call: to open one costs as much as to read a thousand entries."""
        try:
            there = self._path.stat()
            file = there.st_dev, there.st_ino
        except OSError:
            file = None  # it is made, or what is wrong is said
        if self._database is None or file != self._file:
            self._close()
            self._database = database = open_database(self._path)
            there = self._path.stat()
            self._file = there.st_dev, there.st_ino
            self._close = weakref.finalize(self, database.close)
        return self._database


def _group_behind(seq: int, held: list[Held]) -> Group:
    return Group(held[-1].last - seq, group_of(held))


def _take_entries(database: sqlite3.Connection, seq: int) -> list[Group]:
    most = _GROUP
    while True:
        ((count, last, last_hash, packed),) = database.execute(_TAKE_ENTRIES, (seq, most)).fetchall()
        if count <= 1 or len(packed) <= GROUP_BYTES:
            return [Group(count, Item(last, str(last_hash), "entries", packed))] if count else []
        most = count // 2


def _take_receipts(database: sqlite3.Connection, seq: int) -> list[Item]:
    query = "SELECT seq, envelope FROM receipts WHERE seq > ? ORDER BY seq LIMIT ?"
    return [Item(each, "", "body", envelope.encode()) for each, envelope in database.execute(query, (seq, _RECEIPTS))]
