"""The history of the policy: every version that came into force, with who and why, and its text for a roll-back.

Tables `policy_versions` and `policy_texts` of state.db, and `rule_seen`: since when each rule has been there. A text is
kept once, compressed, however often it was in force. The history is bounded; the version in force always stays in it.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from dataclasses import dataclass
from typing import Final

from cloned_proxy.policy.terms.rule import Rule
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.files.policy_bytes import MAX_BYTES, version_of

MAX_VERSIONS: Final = 500
MAX_TEXT_BYTES: Final = 32 * 1024 * 1024
"""Most bytes of all texts together, compressed."""


@dataclass(frozen=True, slots=True)
class PolicyVersion:
    """One version, as it came into force."""

    version: str
    at: float
    """Unix seconds."""
    actor: str
    """`cli:<user>`, `device:<name>`; `file` for a change by hand."""
    why: str
    summary: str


@dataclass(frozen=True, slots=True)
class PolicySnapshot:
    """A version with what is kept of it."""

    version: PolicyVersion
    source: str
    """The policy file: one state.db may have served several."""
    raw: bytes
    """The file's bytes."""
    rules: tuple[Rule, ...]


def remember(database: sqlite3.Connection, snapshot: PolicySnapshot) -> None:
    """Adds a version, unless it is the newest already. Inside the caller's transaction. Raises sqlite3.Error."""
    version, source = snapshot.version, snapshot.source
    newest = database.execute(
        "SELECT version FROM policy_versions WHERE source = ? ORDER BY seq DESC LIMIT 1", (source,)
    ).fetchone()
    if newest is not None and newest[0] == version.version:
        return
    database.execute(
        "INSERT INTO policy_versions (source, version, at, actor, why, summary) VALUES (?, ?, ?, ?, ?, ?)",
        (source, version.version, version.at, version.actor, version.why, version.summary),
    )
    database.execute("INSERT OR IGNORE INTO policy_texts VALUES (?, ?)", (version.version, zlib.compress(snapshot.raw)))
    rules = json.dumps([rule.id for rule in snapshot.rules])
    database.execute(
        "INSERT OR IGNORE INTO rule_seen SELECT ?, value, ? FROM json_each(?)", (source, version.at, rules)
    )
    database.execute(
        "DELETE FROM rule_seen WHERE source = ? AND rule NOT IN (SELECT value FROM json_each(?))",
        (source, rules),
    )
    _bound(database)


def versions(database: sqlite3.Connection, source: str, limit: int) -> list[PolicyVersion]:
    """The newest versions of one policy file, the newest first. Raises sqlite3.Error."""
    rows = database.execute(
        "SELECT version, at, actor, why, summary FROM policy_versions WHERE source = ? ORDER BY seq DESC LIMIT ?",
        (source, limit),
    )
    return [PolicyVersion(*row) for row in rows]


def text_of(database: sqlite3.Connection, source: str, version: str) -> str:
    """The text of a version in the history of this file. Raises StoreError for none, and sqlite3.Error."""
    row = database.execute(
        "SELECT text FROM policy_texts JOIN policy_versions USING (version) WHERE source = ? AND version = ?",
        (source, version),
    ).fetchone()
    if row is None:
        raise StoreError(f"{version}: no such version in the history; `cloned-proxy policy history` lists them")
    try:
        raw = zlib.decompressobj().decompress(row[0], MAX_BYTES)
    except zlib.error as error:
        raise StoreError(f"{version}: its text in the history is damaged ({error}); choose another version") from error
    if version_of(raw) != version:
        raise StoreError(f"{version}: its text in the history was changed; choose another version")
    return raw.decode("utf-8")


def version_before(database: sqlite3.Connection, source: str, version: str) -> str | None:
    """The version that this one replaced when it last came into force; None for the oldest. Raises sqlite3.Error."""
    row = database.execute(
        "SELECT version FROM policy_versions WHERE source = ? AND seq < "
        "(SELECT max(seq) FROM policy_versions WHERE source = ? AND version = ?) ORDER BY seq DESC LIMIT 1",
        (source, source, version),
    ).fetchone()
    return None if row is None else str(row[0])


def rules_seen(database: sqlite3.Connection, source: str) -> dict[str, float]:
    """Since when (Unix seconds) each rule of the newest version has been there. Raises sqlite3.Error."""
    return dict(database.execute("SELECT rule, first FROM rule_seen WHERE source = ?", (source,)))


def _bound(database: sqlite3.Connection) -> None:
    """Drops the oldest versions over the bounds. The newest row, whatever its size, stays."""
    database.execute(
        "DELETE FROM policy_versions WHERE seq NOT IN (SELECT seq FROM policy_versions ORDER BY seq DESC LIMIT ?)",
        (MAX_VERSIONS,),
    )
    _drop_unnamed_texts(database)
    while _text_bytes(database) > MAX_TEXT_BYTES:
        oldest, newest = database.execute("SELECT min(seq), max(seq) FROM policy_versions").fetchone()
        if oldest == newest:
            return
        database.execute("DELETE FROM policy_versions WHERE seq = ?", (oldest,))
        _drop_unnamed_texts(database)


def _drop_unnamed_texts(database: sqlite3.Connection) -> None:
    database.execute("DELETE FROM policy_texts WHERE version NOT IN (SELECT version FROM policy_versions)")


def _text_bytes(database: sqlite3.Connection) -> int:
    return int(database.execute("SELECT coalesce(sum(length(text)), 0) FROM policy_texts").fetchone()[0])
