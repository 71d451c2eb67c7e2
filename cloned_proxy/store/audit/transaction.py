"""One transaction of SQLite: committed at the end, rolled back on any exception."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from typing import Literal


@contextlib.contextmanager
def transaction(
    database: sqlite3.Connection, kind: Literal["IMMEDIATE", "DEFERRED"] = "IMMEDIATE"
) -> Iterator[sqlite3.Connection]:
    """`IMMEDIATE` takes the write lock now, so that no other process writes in between; `DEFERRED` is for reading.

    Raises sqlite3.Error. After a full disk SQLite has rolled back by itself; a second ROLLBACK would hide the cause.
    """
    database.execute(f"BEGIN {kind}")
    try:
        yield database
        database.execute("COMMIT")
    finally:
        if database.in_transaction:
            database.execute("ROLLBACK")
