"""Receipts: a replica signs how far its log has come. What is changed before that place afterwards can be shown.

The key is the replica's own. It signs receipts and exports, which have payload types of their own, and no proxy takes
it for a policy: `trust:` names those keys.
"""

from __future__ import annotations

import base64
import json
import secrets
import socket
import sqlite3
from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple

from cloned_proxy.fleet.members.member import replica_key, replica_name
from cloned_proxy.fleet.signed.envelope import Trust, seal
from cloned_proxy.fleet.signed.errors import EnvelopeError, Refused
from cloned_proxy.fleet.signed.keys import SigningKey
from cloned_proxy.fleet.signed_policy.kept import Shelf
from cloned_proxy.policy.terms.strict_json import read_json
from cloned_proxy.store.audit.chain import ChainLink
from cloned_proxy.store.settings.fleet_settings import FleetSettings
from cloned_proxy.store.workspaces.workspace import Workspace

RECEIPT_TYPE: Final = "application/vnd.cloned-proxy.audit-receipt+json"
_LOG_ID_BYTES: Final = 8
_FORMER: Final = "former_log_ids"
MOST_FORMER: Final = 100


@dataclass(frozen=True, slots=True)
class Receipt:
    """The log of a replica, as it was at one moment."""

    replica: str
    """What it is called, for people. Its key is what proves."""
    log: str
    """Id of the log: one that begins anew is another one."""
    seq: int
    """Number of the log's newest entry."""
    hash: str
    """Hash of that entry, which covers all before it."""
    at: float
    """Unix seconds by the replica's clock."""


def seal_receipt(receipt: Receipt, key: SigningKey) -> bytes:
    """The envelope, in one line."""
    return seal(json.dumps(asdict(receipt), sort_keys=True).encode(), RECEIPT_TYPE, [key])


def open_receipt(raw: bytes, trust: Trust) -> Receipt:
    """Raises EnvelopeError for what no trusted key has signed as a receipt."""
    return _receipt_in(open_fields(raw, RECEIPT_TYPE, trust))


def open_fields(raw: bytes, payload_type: str, trust: Trust) -> dict[str, Any]:
    """The JSON object in an envelope of this type. Raises EnvelopeError."""
    try:
        found = read_json(trust.open(raw, payload_type).payload)
    except ValueError as error:
        raise EnvelopeError(Refused.FORMAT, f"signed, and no JSON: {error}") from error
    if not isinstance(found, dict):
        raise EnvelopeError(Refused.FORMAT, "signed, and no JSON object")
    return found


def _receipt_in(fields: dict[str, Any]) -> Receipt:
    kinds = {"replica": str, "log": str, "seq": int, "hash": str, "at": float}
    if fields.keys() != kinds.keys() or not all(type(fields[name]) is kind for name, kind in kinds.items()):
        raise EnvelopeError(Refused.FORMAT, "signed, and no receipt")
    return Receipt(**fields)


def claimed_log(envelope: Any) -> str:
    """The id of the log that a receipt of this replica's own database is for; "" where it cannot be read."""
    try:
        return str(json.loads(base64.b64decode(envelope["payload"]))["log"])
    except (ValueError, KeyError, TypeError):
        return ""


def own_key(workspace: Workspace) -> SigningKey:
    """The key of this replica, made (0600) on first use, also where no fleet is set up. Raises StoreError."""
    Shelf(workspace).create()
    return replica_key(workspace)


def own_name(settings: FleetSettings | None, key: SigningKey | None) -> str:
    """What the log is called, for people: as the replica in a fleet, by the host outside of one."""
    return socket.gethostname() if settings is None or key is None else replica_name(settings, key)


def log_id(database: sqlite3.Connection) -> str:
    """The id of the log in this database: given on first use, which writes, inside a transaction of the caller's."""
    query = "SELECT value FROM meta WHERE key = 'log_id'"
    found = database.execute(query).fetchone()
    if found is None:
        # Two processes may come here at once: both go on with what the first one has written.
        database.execute("INSERT OR IGNORE INTO meta VALUES ('log_id', ?)", (_drawn(),))
        found = database.execute(query).fetchone()
    return str(found[0])


class Former(NamedTuple):
    """What a log was called before."""

    log: str
    until: int
    """Number of its newest entry when it got another id: what was signed under this one is no later."""


def new_log_id(database: sqlite3.Connection) -> str:
    """Calls the log something that nothing was called before: it goes on in another way than what has left it.

    Its receipts until now are of the old id, which is kept for whoever checks them, as long as there can be any.
    """
    made, oldest = _drawn(), anchor_of(database).seq
    still = [each for each in former_ids(database) if each.until >= oldest]
    former = [*still, Former(log_id(database), head_of(database).seq)][-MOST_FORMER:]
    database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (_FORMER, json.dumps(former)))
    database.execute("INSERT OR REPLACE INTO meta VALUES ('log_id', ?)", (made,))
    return made


def former_ids(database: sqlite3.Connection) -> list[Former]:
    """The oldest first. Raises sqlite3.Error."""
    found = database.execute("SELECT value FROM meta WHERE key = ?", (_FORMER,)).fetchone()
    return [] if found is None else [Former(str(log), int(until)) for log, until in json.loads(found[0])]


def _drawn() -> str:
    return secrets.token_hex(_LOG_ID_BYTES)


def head_of(database: sqlite3.Connection) -> ChainLink:
    """The newest entry. Raises sqlite3.Error."""
    return _link(database, "head")


def anchor_of(database: sqlite3.Connection) -> ChainLink:
    """What the oldest entry that is there follows. Raises sqlite3.Error."""
    return _link(database, "anchor")


def _link(database: sqlite3.Connection, name: str) -> ChainLink:
    rows = dict(database.execute("SELECT key, value FROM meta WHERE key IN (?, ?)", (f"{name}_seq", f"{name}_hash")))
    return ChainLink(int(rows[f"{name}_seq"]), str(rows[f"{name}_hash"]))
