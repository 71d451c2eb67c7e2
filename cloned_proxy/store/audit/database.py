"""Opening `state.db`: its schema, and clear refusals for everything that is not it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cloned_proxy.store.audit.transaction import transaction
from cloned_proxy.store.files.errors import StoreError

SCHEMA_VERSION: Final = 1
BUSY_SECONDS: Final = 5.0
_RETRY_SECONDS: Final = 0.01
_MAKING: Final = threading.Lock()
"""Held from making the file until the descriptor of that is closed; no thread of this process opens it before."""
_APPLICATION_ID: Final = 0x436C5078  # "ClPx": tells our file from any other SQLite database

# What queries filter by is computed from the hashed body, so it cannot be changed without breaking the chain.
_SCHEMA: Final = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE entries (
    seq     INTEGER PRIMARY KEY,
    body    TEXT NOT NULL,
    hash    TEXT NOT NULL,
    at      REAL GENERATED ALWAYS AS (json_extract(body, '$.at')) VIRTUAL,
    type    TEXT GENERATED ALWAYS AS (json_extract(body, '$.type')) VIRTUAL,
    tool    TEXT GENERATED ALWAYS AS (json_extract(body, '$.tool')) VIRTUAL,
    verdict TEXT GENERATED ALWAYS AS (json_extract(body, '$.verdict')) VIRTUAL
);
CREATE TABLE rule_hits (rule TEXT PRIMARY KEY, hits INTEGER NOT NULL, last REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE leases (rule TEXT PRIMARY KEY, used INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES
    ('schema_version', '{SCHEMA_VERSION}'),
    ('anchor_seq', '0'), ('anchor_hash', '{{genesis}}'),
    ('head_seq', '0'), ('head_hash', '{{genesis}}');
PRAGMA application_id = {_APPLICATION_ID};
"""  # noqa: S608  constants of this module, no input

# Made on opening where it is missing, so that a file of an older program of this schema version gains it.
_ADDED: Final = {
    "policy_versions": """
        CREATE TABLE IF NOT EXISTS policy_versions (
            seq     INTEGER PRIMARY KEY AUTOINCREMENT,
            source  TEXT NOT NULL,
            version TEXT NOT NULL,
            at      REAL NOT NULL,
            actor   TEXT NOT NULL,
            why     TEXT NOT NULL,
            summary TEXT NOT NULL
        )""",
    "policy_texts": """
        CREATE TABLE IF NOT EXISTS policy_texts (version TEXT PRIMARY KEY, text BLOB NOT NULL)""",
    "rule_seen": """
        CREATE TABLE IF NOT EXISTS rule_seen (
            source TEXT NOT NULL, rule TEXT NOT NULL, first REAL NOT NULL, PRIMARY KEY (source, rule)
        ) WITHOUT ROWID""",
    "lease_ends": """
        CREATE TABLE IF NOT EXISTS lease_ends (
            rule    TEXT PRIMARY KEY,
            expires REAL NOT NULL,
            left    REAL NOT NULL,
            boot    TEXT NOT NULL,
            uptime  REAL NOT NULL
        ) WITHOUT ROWID""",
    "receipts": """
        CREATE TABLE IF NOT EXISTS receipts (seq INTEGER PRIMARY KEY, at REAL NOT NULL, envelope TEXT NOT NULL)""",
    "entries_at": "CREATE INDEX IF NOT EXISTS entries_at ON entries (at)",
    "tally_calls": """
        CREATE TABLE IF NOT EXISTS tally_calls (
            id      INTEGER PRIMARY KEY AUTOINCREMENT,
            tool    TEXT NOT NULL,
            host    TEXT NOT NULL,
            port    INTEGER NOT NULL,
            method  TEXT NOT NULL,
            path    TEXT NOT NULL,
            verdict TEXT NOT NULL,
            reason  TEXT NOT NULL,
            since   INTEGER NOT NULL,
            UNIQUE (host, tool, port, method, path, verdict, reason)
        )""",
    "tally_new": "CREATE INDEX IF NOT EXISTS tally_new ON tally_calls (tool, since)",
    "tally": """
        CREATE TABLE IF NOT EXISTS tally (
            call  INTEGER NOT NULL,
            hour  INTEGER NOT NULL,
            count INTEGER NOT NULL,
            first REAL NOT NULL,
            last  REAL NOT NULL,
            PRIMARY KEY (call, hour)
        ) WITHOUT ROWID;
        INSERT OR IGNORE INTO meta
            SELECT 'tally_next', value FROM meta WHERE key = 'anchor_seq' UNION
            SELECT 'tally_end', value FROM meta WHERE key = 'head_seq'""",
    "approvals": """
        CREATE TABLE IF NOT EXISTS approvals (
            id             TEXT PRIMARY KEY,
            key            TEXT NOT NULL,
            state          TEXT NOT NULL,
            asker          TEXT NOT NULL,
            created        REAL NOT NULL,
            expires        REAL NOT NULL,
            boot           TEXT NOT NULL,
            uptime         REAL NOT NULL,
            body           TEXT NOT NULL,
            count          INTEGER NOT NULL,
            intent         TEXT,
            decided_by     TEXT NOT NULL DEFAULT '',
            decided_at     REAL,
            decided_reason TEXT NOT NULL DEFAULT '',
            rules          TEXT NOT NULL DEFAULT '[]'
        ) WITHOUT ROWID""",
    "approvals_pending": """
        CREATE UNIQUE INDEX IF NOT EXISTS approvals_pending ON approvals (key) WHERE state = 'pending'""",
    "approvals_created": """
        CREATE INDEX IF NOT EXISTS approvals_created ON approvals (created)""",
    "approvals_key": """
        CREATE INDEX IF NOT EXISTS approvals_key ON approvals (key)""",
    "devices": """
        CREATE TABLE IF NOT EXISTS devices (
            id      TEXT PRIMARY KEY,
            name    TEXT NOT NULL UNIQUE,
            kind    TEXT NOT NULL,
            token   TEXT NOT NULL UNIQUE,
            created REAL NOT NULL,
            expires REAL NOT NULL,
            seen    REAL
        ) WITHOUT ROWID""",
    "ignored_hosts": """
        CREATE TABLE IF NOT EXISTS ignored_hosts (
            tool  TEXT NOT NULL,
            host  TEXT NOT NULL,
            at    REAL NOT NULL,
            actor TEXT NOT NULL,
            why   TEXT NOT NULL,
            PRIMARY KEY (tool, host)
        ) WITHOUT ROWID""",
    "pairing_codes": """
        CREATE TABLE IF NOT EXISTS pairing_codes (
            hash TEXT PRIMARY KEY, name TEXT NOT NULL, created REAL NOT NULL, expires REAL NOT NULL
        ) WITHOUT ROWID""",
    "pairing_lock": """
        CREATE TABLE IF NOT EXISTS pairing_lock (
            id INTEGER PRIMARY KEY CHECK (id = 1), failures INTEGER NOT NULL, until REAL NOT NULL
        )""",
}
"""Statements by the name of what they make. Each table has one module of this package that owns it."""


def open_database(path: Path) -> sqlite3.Connection:
    """A connection to the state database, made (0600) where there is none.

    Commits are durable (WAL, synchronous=FULL). A file that is not ours, is damaged, or has another schema version
    raises StoreError: it is evidence, so it is never replaced silently.
    """
    _check_file(path)
    try:
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise StoreError(f"{path}: cannot be opened: {error}; make the workspace writable") from error
    try:
        # First of all, and only reading: a file that is not ours is left as it is.
        empty = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0
        if not empty:
            _check_schema(connection, path)
        _log_ahead(connection)
        connection.execute("PRAGMA synchronous = FULL")
        if empty:
            _create_schema(connection)
            _check_schema(connection, path)
        _add_missing(connection)
    except sqlite3.Error as error:
        connection.close()
        raise StoreError(f"{path}: {explain(path, error)}") from error
    except StoreError:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection for one look. Raises StoreError, for what SQLite says inside too."""
    database = open_database(path)
    try:
        yield database
    except sqlite3.Error as error:
        raise StoreError(f"{path}: {explain(path, error)}") from error
    finally:
        database.close()


@contextlib.contextmanager
def writing(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection in one transaction, committed at the end and rolled back on any exception. Raises StoreError."""
    with reading(path) as database, transaction(database):
        yield database


def _check_file(path: Path) -> None:
    try:
        # Made here, so that it is private from its first moment. An existing one is only looked at: closing any
        # descriptor of the file would drop the locks that SQLite holds on it in this process (POSIX fcntl locks).
        # Another process that closes the file would then take the WAL away from under this one.
        with _MAKING:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        pass
    except OSError as error:
        raise StoreError(f"{path}: cannot be made: {error.strerror}; make the workspace writable") from error
    info = path.lstat()
    if not stat.S_ISREG(info.st_mode):
        raise StoreError(f"{path}: not a regular file; move it away")
    if info.st_mode & 0o077:
        raise StoreError(f"{path}: others can read the audit log; run `chmod 600 {path}`")


def _log_ahead(connection: sqlite3.Connection) -> None:
    """Turns on WAL. Of processes that open a new file at the same moment each has to wait for the one that does it.

    SQLite itself does not wait there: with two that read and both want to write, waiting would be a deadlock.
    """
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise
            time.sleep(_RETRY_SECONDS)
        else:
            return


def _create_schema(connection: sqlite3.Connection) -> None:
    from cloned_proxy.store.audit.chain import GENESIS  # noqa: PLC0415  its imports take longer than to open a file

    with transaction(connection):  # two processes may start at once
        if connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0:
            for statement in _SCHEMA.format(genesis=GENESIS).split(";\n"):
                connection.execute(statement)


def _add_missing(connection: sqlite3.Connection) -> None:
    found = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
    missing = [statement for name, statement in _ADDED.items() if name not in found]
    if not missing:
        return
    with transaction(connection):
        for statement in ";".join(missing).split(";"):
            connection.execute(statement)


def _check_schema(connection: sqlite3.Connection, path: Path) -> None:
    if connection.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION_ID:
        raise StoreError(f"{path}: not a state database of cloned-proxy; {_move_away(path)}")
    found = connection.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()
    if found is None or found[0] != str(SCHEMA_VERSION):
        has = found[0] if found is not None else "none"
        raise StoreError(
            f"{path}: schema version {has}, this program needs {SCHEMA_VERSION}; "
            f"use the version of cloned-proxy that wrote it, or {_move_away(path)}"
        )


def explain(path: Path, error: sqlite3.Error) -> str:
    """What is wrong with the file, and the fix."""
    text = str(error)
    if "not a database" in text or "malformed" in text or "no such table" in text:
        return f"damaged ({text}); {_move_away(path)}"
    if "readonly" in text or "unable to open" in text:
        return f"cannot be written ({text}); make the workspace writable"
    if "full" in text or "disk I/O" in text:
        return f"cannot be written ({text}); free space on that file system"
    if "locked" in text:
        return f"locked by another process for {BUSY_SECONDS:.0f} s; end that process"
    return text


def _move_away(path: Path) -> str:
    return f"keep it as evidence and start a new log: `mv {path} {path}.broken`"
