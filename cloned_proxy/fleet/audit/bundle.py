"""Exports of the log that can be checked without it: one JSON object a line.

First a line that says what is exported, then the entries, then the receipts that the replica gave, and at the end, if
it is signed, a statement of the replica with a digest of every entry and one of all receipts. The statement is what
makes an export whole: without the digests nobody could tell from which entry on a forger has hashed the chain anew, and
without a signed end nobody would miss a tail that was cut.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cloned_proxy.fleet.audit.receipt import MOST_FORMER, Former, anchor_of, claimed_log, former_ids, head_of, log_id
from cloned_proxy.fleet.signed.envelope import seal
from cloned_proxy.fleet.signed.errors import FleetError
from cloned_proxy.fleet.signed.keys import SigningKey
from cloned_proxy.store.audit.chain import ChainLink

EXPORT_TYPE: Final = "application/vnd.cloned-proxy.audit-export+json"
FORMAT: Final = "cloned-proxy-audit-export"
VERSION: Final = 1
DIGEST_BYTES: Final = 8
"""Size of an entry's digest, enough to tell which one it is. That nothing was changed is what the chain's hash says."""
MOST_SIGNED: Final = 2_000_000
"""Entries; the statement is one envelope, and has to fit into one."""


@dataclass(frozen=True, slots=True)
class LogSource:
    """Whose log it is, and who signs."""

    replica: str
    at: float
    """Unix seconds of the export."""
    key: SigningKey | None
    """None: not signed."""


def digest(body: str) -> bytes:
    """Short hash of an entry's stored form, by which a bundle names it."""
    return hashlib.sha256(body.encode(errors="surrogatepass")).digest()[:DIGEST_BYTES]


def receipt_digest(envelope: dict[str, Any]) -> bytes:
    """SHA-256 of a receipt as the file holds it."""
    return hashlib.sha256(json.dumps(envelope, sort_keys=True).encode()).digest()


def export(
    database: sqlite3.Connection,
    since: float | None,
    source: LogSource,
    *,
    progress: Callable[[int], None] = lambda _: None,
) -> Iterator[str]:
    """The lines of an export of everything since (Unix seconds), as of one moment, in a transaction of the caller's.

    `progress` hears how many entries are out. Raises FleetError and sqlite3.Error.
    """
    log, head = log_id(database), head_of(database)
    before = _link_before(database, since)
    if source.key is not None and head.seq - before.seq > MOST_SIGNED:
        raise FleetError(
            f"{head.seq - before.seq} entries, and a signed export holds {MOST_SIGNED}; narrow it: --since 1d"
        )
    opening = {
        "format": FORMAT, "version": VERSION, "replica": source.replica, "log": log, "at": source.at,
        "after": {"seq": before.seq, "hash": before.hash},
    }  # fmt: skip
    # What it was called before it was copied or set back: receipts of then are of that id.
    if former := [each for each in former_ids(database) if each.until >= before.seq]:
        opening["formerly"] = [{"log": each.log, "until": each.until} for each in former]
    yield json.dumps(opening)
    digests = bytearray()
    rows = database.execute("SELECT seq, hash, body FROM entries WHERE seq > ? ORDER BY seq", (before.seq,))
    for number, (seq, entry_hash, body) in enumerate(rows, 1):
        digests += digest(body)
        yield json.dumps({"seq": seq, "hash": entry_hash, "body": body})
        progress(number)
    receipts = _Receipts(log, former)
    for found in receipts.told(database, before.seq):
        yield json.dumps({"receipt": found})
    if source.key is not None:
        statement = opening | {
            "last": {"seq": head.seq, "hash": head.hash},
            "receipts": receipts.summary,
            "digests": base64.b64encode(digests).decode("ascii"),
        }
        sealed = seal(json.dumps(statement, sort_keys=True).encode(), EXPORT_TYPE, [source.key])
        yield json.dumps({"statement": json.loads(sealed)})


class _Receipts:
    """The receipts of an export, and what a statement says of them."""

    def __init__(self, log: str, former: Sequence[Former]) -> None:
        self._known = {"", log, *(each.log for each in former)}  # what cannot be read is for whoever checks
        self._forgotten_until = former[0].until if len(former) >= MOST_FORMER else -1
        self._digest = hashlib.sha256()
        self._number = self._forgotten = 0

    def told(self, database: sqlite3.Connection, since: int) -> Iterator[dict[str, Any]]:
        """The envelopes of the receipts from the entry `since` on, but for those of ids that are forgotten."""
        query = "SELECT seq, envelope FROM receipts WHERE seq >= ? ORDER BY seq"
        for seq, envelope in database.execute(query, (since,)):
            found: dict[str, Any] = json.loads(envelope)
            if seq <= self._forgotten_until and claimed_log(found) not in self._known:
                self._forgotten += 1  # of an id that made room for newer ones: nobody could tell whose it is
                continue
            self._number += 1
            self._digest.update(receipt_digest(found))
            yield found

    @property
    def summary(self) -> dict[str, Any]:
        left_out = {"forgotten": self._forgotten} if self._forgotten else {}
        return {"number": self._number, "digest": self._digest.hexdigest(), **left_out}


def _link_before(database: sqlite3.Connection, since: float | None) -> ChainLink:
    """What the first entry of an export follows."""
    anchor = anchor_of(database)
    if since is None:
        return anchor
    first = database.execute("SELECT min(seq) FROM entries WHERE at >= ?", (since,)).fetchone()[0]
    if first is None:
        return head_of(database)
    if first == anchor.seq + 1:
        return anchor
    row: tuple[int, Any] = database.execute("SELECT seq, hash FROM entries WHERE seq = ?", (first - 1,)).fetchone()
    return ChainLink(row[0], str(row[1]))
