"""What is read of state.db to send the log to the store of a fleet: groups of entries, which SQLite puts together."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from cloned_proxy.fleet.audit.receipt import anchor_of, head_of, log_id, new_log_id
from cloned_proxy.store.audit.database import open_database
from cloned_proxy.store.files.errors import StoreError

_GROUP: Final = 1000
"""Entries; the store does nothing else while it takes them, some milliseconds."""
_GROUP_BYTES: Final = 1 << 20
"""Of a group, or of the one entry that is larger."""

# One value for the whole group, which SQLite puts together: a row at a time costs Python more than all the rest, and
# each row is a hand-over of the interpreter lock, which requests wait for. Of each entry: number, bytes of the hash,
# bytes of the body, each with a blank behind it, then hash and body as they lie on the disk.
_TAKE: Final = """
SELECT count(*), max(seq), CAST(group_concat(
    seq || ' ' || length(CAST(hash AS BLOB)) || ' ' || length(CAST(body AS BLOB)) || ' ' || hash || body, '') AS BLOB)
FROM (SELECT {fields} WHERE seq > ? ORDER BY seq LIMIT ?)
"""
_TAKE_ENTRIES: Final = _TAKE.format(fields="seq, hash, body FROM entries")
_TAKE_RECEIPTS: Final = _TAKE.format(fields="seq, '' AS hash, envelope AS body FROM receipts")


class Group(NamedTuple):
    """Entries that go out together, or receipts, each under the number of its entry."""

    entries: int
    last: int
    """Number of the last one."""
    packed: bytes
    """All of them, as the script of `fleet/audit/audit_ship.py` reads them."""


class News(NamedTuple):
    """What is on record and was not sent."""

    newest: int
    """Number of the newest entry of the log."""
    entries: Group | None
    receipts: Group | None


class LocalLog:
    """What is read of state.db, in a thread of its own connections. Every method raises StoreError."""

    def __init__(self, path: Path) -> None:
        self._path: Final = path

    def identify(self) -> str:
        """The id of the log."""
        return self._with(log_id)

    def rename(self) -> str:
        """Gives it a new id."""
        return self._with(new_log_id)

    def bounds(self) -> tuple[int, int]:
        """The number before the oldest entry, and that of the newest."""
        return self._with(lambda database: (anchor_of(database).seq, head_of(database).seq))

    def hash_of(self, seq: int) -> str | None:
        """Of an entry that is still there, or of the one that the oldest follows."""

        def look(database: sqlite3.Connection) -> str | None:
            anchor = anchor_of(database)
            if seq == anchor.seq:
                return anchor.hash
            row = database.execute("SELECT hash FROM entries WHERE seq = ?", (seq,)).fetchone()
            return None if row is None else str(row[0])

        return self._with(look)

    def news(self, seq: int, receipt: int) -> News:
        """What goes out next behind this entry, and behind the receipt of that one."""

        def look(database: sqlite3.Connection) -> News:
            newest = head_of(database).seq  # first: an entry that comes meanwhile is in the group, or waits
            entries = _take(database, _TAKE_ENTRIES, seq) if newest > seq else None
            return News(newest, entries, _take(database, _TAKE_RECEIPTS, receipt))

        return self._with(look)

    def lag(self, seq: int) -> tuple[int, float | None]:
        """Number of the newest entry, and when the first one behind `seq` was recorded (Unix seconds)."""

        def look(database: sqlite3.Connection) -> tuple[int, float | None]:
            query = "SELECT at FROM entries WHERE seq > ? ORDER BY seq LIMIT 1"
            rows = database.execute(query, (seq,)).fetchall()
            return head_of(database).seq, rows[0][0] if rows else None

        return self._with(look)

    def _with[T](self, work: Callable[[sqlite3.Connection], T]) -> T:
        database = open_database(self._path)
        try:
            return work(database)
        except sqlite3.Error as error:
            raise StoreError(f"{self._path}: {error}; run `cloned-proxy audit verify`") from error
        finally:
            database.close()


def _take(database: sqlite3.Connection, query: str, seq: int) -> Group | None:
    most = _GROUP
    while True:
        ((count, last, packed),) = database.execute(query, (seq, most)).fetchall()
        if count <= 1 or len(packed) <= _GROUP_BYTES:
            return Group(count, last, packed) if count else None
        most = count // 2
