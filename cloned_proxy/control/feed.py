"""The live feed: one reader follows the log while somebody listens, and everybody who listens reads what it read.

There is no queue for each listener: all share one bounded window of encoded entries, and each has a place in it. A
listener that falls behind the window is disconnected, and reconnects with its last sequence number; the log has
everything.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import anyio
import structlog

from cloned_proxy.control.record import DecisionFilter
from cloned_proxy.store.audit.database import open_database
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.telemetry.event_types import TYPES_IN_THE_UI

_log = structlog.get_logger(__name__)

_POLL_SECONDS: Final = 0.25
_WINDOW: Final = 5000
_GROUP: Final = 2000


@dataclass(frozen=True, slots=True)
class Piece:
    """One entry, ready to be sent."""

    seq: int
    kind: str
    body: dict[str, Any]
    text: bytes
    """The whole entry as one event of text/event-stream."""


class TooSlowError(Exception):
    """The listener is further behind than the window reaches."""


class Feed:
    """One for each control process, on its event loop."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._window: deque[Piece] = deque(maxlen=_WINDOW)
        self._at = 0
        """The last entry that was looked at."""
        self._listeners = 0
        self._news = asyncio.Condition()
        self._starting = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._database: sqlite3.Connection | None = None
        self._failed = False
        self.closed = False

    @property
    def listeners(self) -> int:
        return self._listeners

    async def close(self) -> None:
        """Ends every listener."""
        self.closed = True
        async with self._news:
            self._news.notify_all()

    @contextlib.asynccontextmanager
    async def listen(self) -> AsyncIterator[int]:
        """Keeps the reader going while inside; the value is the newest entry now. Raises StoreError."""
        self._listeners += 1
        try:
            async with self._starting:
                if self._task is None or self._task.done():
                    self._window.clear()
                    self._at = await anyio.to_thread.run_sync(self._head)
                    self._task = asyncio.create_task(self._follow())
            yield self._at
        finally:
            self._listeners -= 1

    async def after(self, seq: int, seconds: float) -> tuple[list[Piece], int]:
        """What came after `seq`, and up to where that is all; waits for it, `seconds` at most. Raises TooSlowError."""
        if self._at <= seq and not self.closed:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds), self._news:
                    await self._news.wait()
        if self._window and self._window[0].seq > seq + 1 and len(self._window) == _WINDOW:
            raise TooSlowError
        return [piece for piece in self._window if piece.seq > seq], max(seq, self._at)

    async def backlog(self, after: int, limit: int) -> list[Piece]:
        """The newest `limit` entries behind `after`, for who was away. Raises StoreError."""
        return await anyio.to_thread.run_sync(self._backlog, after, limit)

    async def _follow(self) -> None:
        try:
            while self._listeners and not self.closed:
                behind = await self._look()
                await asyncio.sleep(0 if behind else _POLL_SECONDS)
        finally:
            self._forget_database()

    async def _look(self) -> bool:
        """Takes in what is new; whether there is more at once."""
        try:
            pieces, at = await anyio.to_thread.run_sync(self._read, self._at)
        except (StoreError, sqlite3.Error, ValueError) as error:
            if not self._failed:
                _log.warning("the live feed cannot read the log; tried again", reason=str(error))
            self._failed = True
            self._forget_database()
            return False
        self._failed = False
        if at == self._at:
            return False
        behind = at - self._at >= _GROUP
        async with self._news:
            self._window.extend(pieces)
            self._at = at
            self._news.notify_all()
        return behind

    # What follows runs in a thread, one call at a time.

    def _head(self) -> int:
        database = open_database(self._path)
        try:
            return int(database.execute("SELECT coalesce(max(seq), 0) FROM entries").fetchone()[0])
        finally:
            database.close()

    def _read(self, after: int) -> tuple[list[Piece], int]:
        if self._database is None:
            self._database = open_database(self._path)
        rows = self._database.execute(
            "SELECT seq, body FROM entries WHERE seq > ? ORDER BY seq LIMIT ?", (after, _GROUP)
        ).fetchall()
        return _pieces(rows), rows[-1][0] if rows else after

    def _backlog(self, after: int, limit: int) -> list[Piece]:
        database = open_database(self._path)
        try:
            rows = database.execute(
                "SELECT seq, body FROM entries WHERE seq > ? ORDER BY seq DESC LIMIT ?", (after, limit)
            ).fetchall()
        finally:
            database.close()
        return _pieces(rows[::-1])

    def _forget_database(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None


def wants(wanted: DecisionFilter, piece: Piece) -> bool:
    """Decisions pass the filter; what concerns everybody always passes."""
    return piece.kind != "decision" or wanted.matches(piece.body)


def _pieces(rows: list[tuple[int, str]]) -> list[Piece]:
    found = []
    for seq, text in rows:
        body = json.loads(text)
        kind = body.pop("type", "")
        if kind not in TYPES_IN_THE_UI:
            continue
        body.pop("spends_use", None)
        data = json.dumps({"seq": seq, **body}, separators=(",", ":"))
        found.append(Piece(seq, kind, body, f"id: {seq}\nevent: {kind}\ndata: {data}\n\n".encode()))
    return found
