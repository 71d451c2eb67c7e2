"""Hosts that a person does not want to see among the blocked calls of a tool any more.

They stay as refused as they were, and every refusal stays on record: this is about the overview, and opens nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloned_proxy.store.audit.audit_log import append_events
from cloned_proxy.store.audit.database import reading, writing
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.telemetry.events import IgnoreEvent

MOST: Final = 10_000


@dataclass(frozen=True, slots=True)
class IgnoredHost:
    tool: str | None
    """None: callers without a name."""
    host: str
    at: float
    """Unix seconds."""
    actor: str
    why: str


class IgnoredHosts:
    """The ignored hosts of one state.db. Every method raises StoreError."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock

    def list(self) -> list[IgnoredHost]:
        """All of them, the newest first."""
        with reading(self._path) as database:
            rows = database.execute("SELECT tool, host, at, actor, why FROM ignored_hosts ORDER BY at DESC, host")
            return [IgnoredHost(tool or None, *rest) for tool, *rest in rows]

    def add(self, tool: str | None, host: str, *, actor: str, why: str = "") -> bool:
        """Ignores a host for a tool, on record in the same moment; False when it was ignored already."""
        with writing(self._path) as database:
            if database.execute("SELECT count(*) FROM ignored_hosts").fetchone()[0] >= MOST:
                raise StoreError(f"{MOST} hosts are ignored; take some back first")
            done = database.execute(
                "INSERT OR IGNORE INTO ignored_hosts VALUES (?, ?, ?, ?, ?)",
                (tool or "", host, self._clock(), actor, why),
            )
            if done.rowcount:
                append_events(database, [IgnoreEvent(self._clock(), "ignored", tool, host, actor, why)])
            return done.rowcount > 0

    def remove(self, tool: str | None, host: str, *, actor: str) -> bool:
        """Shows the host again, on record; False when it was not ignored."""
        with writing(self._path) as database:
            done = database.execute("DELETE FROM ignored_hosts WHERE tool = ? AND host = ?", (tool or "", host))
            if done.rowcount:
                append_events(database, [IgnoreEvent(self._clock(), "shown", tool, host, actor, "")])
            return done.rowcount > 0
