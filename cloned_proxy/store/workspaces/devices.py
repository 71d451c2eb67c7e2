"""Who may use the control UI and API: one-time codes, the devices that were paired with them, and the lock on guessing.

A code and a token are stored as hashes only. A code has 50 random bits, lives five minutes and works once; ten wrong
ones lock pairing and void every code. What a device is allowed ends the moment its row is gone.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import structlog

from cloned_proxy.store.audit.audit_log import append_events
from cloned_proxy.store.audit.database import reading, writing
from cloned_proxy.telemetry.events import DeviceEvent

_log = structlog.get_logger(__name__)

type Kind = Literal["browser", "api", "reader"]
"""`reader`: an API client that changes nothing, such as a dashboard."""

CODE_SECONDS: Final = 300.0
MAX_FAILURES: Final = 10
LOCK_SECONDS: Final = 300.0
DEVICE_SECONDS: Final = 90 * 86_400.0
_MAX_CODES: Final = 5
"""Codes that wait at one time; an older one gives way."""
_SKEW_SECONDS: Final = 60.0
"""How far the clock may go back before a code, which is from the future then, is refused."""
_SEEN_SECONDS: Final = 60.0
_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Crockford's base 32: no I, L, O, U, so that nobody has to guess what was printed."""
_CODE_LENGTH: Final = 10
_LOOKALIKES: Final = str.maketrans({"O": "0", "I": "1", "L": "1", "-": None, " ": None})
MAX_NAME: Final = 64
_NAME: Final = re.compile(rf"[^\W_][\w .()@+-]{{0,{MAX_NAME - 1}}}")


class PairingError(Exception):
    """The code is wrong, was used, or has expired: which of them is not told."""


class PairingLockedError(PairingError):
    """Too many wrong codes; `retry_after` is in whole seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"too many wrong codes; try again in {retry_after} s, with a new code")
        self.retry_after: Final = retry_after


@dataclass(frozen=True, slots=True)
class Device:
    """One browser or API client that was paired."""

    id: str
    name: str
    """Unique among the devices: it is what the log calls them."""
    kind: Kind
    created: float
    """Unix seconds, as all times here."""
    expires: float
    seen: float | None
    """Last request, to the minute."""


@dataclass(frozen=True, slots=True)
class Code:
    text: str
    """`4TQ8N-0XK7M`."""
    expires: float


@dataclass(frozen=True, slots=True)
class Paired:
    device: Device
    token: str
    """256 random bits; this is the only place where it is ever readable."""


def valid_device_name(name: str) -> bool:
    """Letters, digits and a little punctuation: it is printed in logs and on terminals."""
    return _NAME.fullmatch(name) is not None and name == name.strip()


class Devices:
    """The devices of one workspace. Every method opens state.db for itself, and raises StoreError when it cannot."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock

    def new_code(self, name: str = "") -> Code:
        """A one-time code; `name` is what the device will be called unless it says a name itself.

        Raises PairingLockedError while pairing is locked: the code would not work.
        """
        text = "".join(secrets.choice(_ALPHABET) for _ in range(_CODE_LENGTH))
        now = self._clock()
        with writing(self._path) as database:
            _refuse_while_locked(database, now)
            database.execute("DELETE FROM pairing_codes WHERE expires <= ?", (now,))
            database.execute(
                "INSERT INTO pairing_codes VALUES (?, ?, ?, ?)", (_hash(text), name, now, now + CODE_SECONDS)
            )
            database.execute(
                "DELETE FROM pairing_codes WHERE hash NOT IN "
                "(SELECT hash FROM pairing_codes ORDER BY created DESC LIMIT ?)",
                (_MAX_CODES,),
            )
        return Code(f"{text[:5]}-{text[5:]}", now + CODE_SECONDS)

    def exchange(self, code: str, name: str = "") -> Paired:
        """A device for a code, once. Raises PairingError for a wrong one, PairingLockedError after ten of them."""
        now = self._clock()
        with writing(self._path) as database:
            _refuse_while_locked(database, now)
            row = _take_code(database, code, now)
            if row is None:
                failure = _count_failure(database, now)
            else:
                database.execute("DELETE FROM pairing_lock")
                return _add(database, name or row or "browser", "browser", "pairing", now)
        if isinstance(failure, PairingLockedError):
            _log.warning("pairing is locked after too many wrong codes", seconds=failure.retry_after)
        raise failure

    def issue(self, name: str, *, actor: str, read_only: bool = False) -> Paired:
        """A bearer token for an API client, without a code: for whoever owns the workspace anyway."""
        kind: Kind = "reader" if read_only else "api"
        with writing(self._path) as database:
            return _add(database, name or kind, kind, actor, self._clock())

    def find(self, token: str, kind: Kind) -> Device | None:
        """Whose token this is; None for an unknown, expired or revoked one."""
        with reading(self._path) as database:
            row = database.execute(
                "SELECT id, name, kind, created, expires, seen FROM devices WHERE token = ? AND kind = ? "
                "AND expires > ?",
                (_hash(token), kind, self._clock()),
            ).fetchone()
        return Device(*row) if row is not None else None

    def valid(self, device: Device) -> bool:
        """Whether the device is still there: for what began while it was."""
        with reading(self._path) as database:
            query = "SELECT 1 FROM devices WHERE id = ? AND expires > ?"
            return database.execute(query, (device.id, self._clock())).fetchone() is not None

    def touch(self, device: Device) -> None:
        """Notes that the device was seen, at most once a minute."""
        now = self._clock()
        if device.seen is not None and 0 <= now - device.seen < _SEEN_SECONDS:
            return
        with reading(self._path) as database:
            database.execute("UPDATE devices SET seen = ? WHERE id = ?", (now, device.id))

    def list(self) -> list[Device]:
        """All of them, the oldest first."""
        with reading(self._path) as database:
            rows = database.execute(
                "SELECT id, name, kind, created, expires, seen FROM devices WHERE expires > ? ORDER BY created, id",
                (self._clock(),),
            )
            return [Device(*row) for row in rows]

    def revoke(self, identifier: str, *, actor: str) -> Device | None:
        """Ends what the device may do, at once; None when there is no such device. On record in the same moment."""
        with writing(self._path) as database:
            row = database.execute(
                "DELETE FROM devices WHERE id = ? RETURNING id, name, kind, created, expires, seen", (identifier,)
            ).fetchone()
            if row is None:
                return None
            device = Device(*row)
            append_events(database, [DeviceEvent(self._clock(), "revoked", device.id, device.name, actor)])
            return device


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()


def _take_code(database: sqlite3.Connection, code: str, now: float) -> str | None:
    """The name that goes with the code, which is used up now; None for a wrong one."""
    given = _hash(code.upper().translate(_LOOKALIKES))
    found: tuple[str, str] | None = None
    rows = database.execute(
        "SELECT hash, name FROM pairing_codes WHERE expires > ? AND created <= ?", (now, now + _SKEW_SECONDS)
    ).fetchall()
    for stored, name in rows:  # all of them: the time tells nothing
        if hmac.compare_digest(stored, given):
            found = (stored, name)
    if found is None:
        return None
    database.execute("DELETE FROM pairing_codes WHERE hash = ?", (found[0],))
    return found[1]


def _refuse_while_locked(database: sqlite3.Connection, now: float) -> None:
    row = database.execute("SELECT until FROM pairing_lock WHERE failures >= ?", (MAX_FAILURES,)).fetchone()
    if row is None:
        return
    left = min(row[0] - now, LOCK_SECONDS)  # a clock that went back does not lock for longer
    if left > 0:
        raise PairingLockedError(int(left) + 1)
    database.execute("DELETE FROM pairing_lock")


def _count_failure(database: sqlite3.Connection, now: float) -> PairingError:
    count = database.execute(
        "INSERT INTO pairing_lock VALUES (1, 1, ?) "
        "ON CONFLICT (id) DO UPDATE SET failures = failures + 1, until = excluded.until RETURNING failures",
        (now + LOCK_SECONDS,),
    ).fetchone()[0]
    if count < MAX_FAILURES:
        return PairingError("the code is wrong, was used, or has expired; `cloned-proxy pair` prints a new one")
    database.execute("DELETE FROM pairing_codes")
    append_events(database, [DeviceEvent(now, "locked", "", "", "pairing")])
    return PairingLockedError(int(LOCK_SECONDS))


def _add(database: sqlite3.Connection, name: str, kind: Kind, actor: str, now: float) -> Paired:
    database.execute("DELETE FROM devices WHERE expires <= ?", (now,))
    taken = {row[0] for row in database.execute("SELECT name FROM devices")}
    unique, number = name, 1
    while unique in taken:
        number += 1
        unique = f"{name[: MAX_NAME - 5]} {number}"
    device = Device(secrets.token_hex(8), unique, kind, now, now + DEVICE_SECONDS, None)
    token = secrets.token_urlsafe(32)
    database.execute(
        "INSERT INTO devices VALUES (?, ?, ?, ?, ?, ?, NULL)",
        (device.id, device.name, device.kind, _hash(token), device.created, device.expires),
    )
    append_events(database, [DeviceEvent(now, "paired", device.id, device.name, actor)])
    return Paired(device, token)
